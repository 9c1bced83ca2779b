//! QUIC, as far as a load balancer reads it (RFC 8999, RFC 9000, RFC 9369): the destination connection ID of a client's packet.

use super::be32;

/// Versions whose packet types are known.
const VERSION_1: u32 = 1;
const VERSION_2: u32 = 0x6b33_43cf;

/// The connection ID that a server chose, at the start of what is given. Of a short header that is all of the rest, since only the
/// server knows how long its IDs are. `None` where the client may have chosen it itself (Initial, 0-RTT, versions whose types are
/// not known), or where there is none.
pub fn servers_connection_id(datagram: &[u8]) -> Option<&[u8]> {
    const LONG: u8 = 0x80;
    let (&first, rest) = datagram.split_first()?;
    if first & LONG == 0 {
        return Some(rest);
    }
    let (head, rest) = rest.split_first_chunk::<5>()?;
    let kind = first >> 4 & 3;
    // Initial and 0-RTT.
    let is_clients = match be32(head, 0) {
        VERSION_1 => matches!(kind, 0 | 1),
        VERSION_2 => matches!(kind, 1 | 2),
        _ => true,
    };
    let id = rest.get(..usize::from(head[4]))?;
    (!is_clients).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(first: u8, version: u32, id: &[u8]) -> Vec<u8> {
        [&[first][..], &version.to_be_bytes(), &[id.len() as u8], id, &[0; 20]].concat()
    }

    #[test]
    fn which_ids_are_the_servers() {
        let id = [7, 1, 2, 3, 4];
        assert_eq!(servers_connection_id(&[&[0x40][..], &id].concat()), Some(&id[..]));
        for (version, clients) in
            [(1, [true, true, false, false]), (VERSION_2, [false, true, true, false]), (9, [true; 4])]
        {
            for (kind, is_clients) in (0u8..).zip(clients) {
                let datagram = long(0xc0 | kind << 4, version, &id);
                assert_eq!(servers_connection_id(&datagram).is_none(), is_clients, "version {version}, type {kind}");
            }
        }
    }

    #[test]
    fn what_is_cut_has_none() {
        assert_eq!(servers_connection_id(&[]), None);
        let handshake = long(0xe0, 1, &[1, 2, 3, 4]);
        assert_eq!(servers_connection_id(&handshake[..10]), Some(&[1, 2, 3, 4][..]));
        for length in 1..10 {
            assert_eq!(servers_connection_id(&handshake[..length]), None, "{length}");
        }
    }
}
