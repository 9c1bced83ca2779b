//! Puts a twin's link in order: the port's MAC and MTU, up. What is right already is left alone, since a new MAC
//! makes the kernel forget its neighbours.

use futures_util::StreamExt;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::{Handle, LinkUnspec};

use super::{Error, Twin};

/// Gives the link's index.
pub async fn prepare(handle: &Handle, twin: &Twin) -> Result<u32, Error> {
    let mut found = handle.link().get().match_name(twin.name.clone()).execute().boxed();
    let Some(Ok(link)) = found.next().await else { return Err(Error::NoTwin { name: twin.name.clone() }) };
    let index = link.header.index;

    let (mut mac, mut mtu) = (None, None);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(address) => mac = Some(address.as_slice()),
            LinkAttribute::Mtu(value) => mtu = Some(*value),
            _ => {}
        }
    }
    let change = || LinkUnspec::new_with_index(index);
    let mut changes = Vec::new();
    if mac != Some(&twin.mac.0) {
        changes.push((format!("MAC {}", twin.mac), change().address(twin.mac.0.to_vec())));
    }
    if mtu != Some(u32::from(twin.mtu)) {
        changes.push((format!("MTU {}", twin.mtu), change().mtu(twin.mtu.into())));
    }
    if !link.header.flags.contains(LinkFlags::Up) {
        changes.push(("it up".to_owned(), change().up()));
    }
    for (what, message) in changes {
        let refused = |error: rtnetlink::Error| Error::Set { name: twin.name.clone(), what, reason: error.to_string() };
        handle.link().set(message.build()).execute().await.map_err(refused)?;
    }
    Ok(index)
}
