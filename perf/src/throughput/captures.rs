//! The captures of what is sent, for generators that replay them (`pktgen -s 0:imix-1000.pcap`), and for whoever wants to look.

use std::path::PathBuf;

use penstock::wire::Mac;

use super::frames;
use crate::traffic::Kind;

#[derive(clap::Args)]
pub struct Options {
    /// acks, syns, udp, v6 or imix, and a number of flows.
    #[arg(required = true)]
    traffic: Vec<Kind>,
    /// The node's own MAC.
    #[arg(long, default_value = "02:70:63:61:70:00")]
    mac: Mac,
    /// Where they go, as acks-1000.pcap.
    #[arg(long, default_value = ".")]
    directory: PathBuf,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    for kind in &options.traffic {
        let path = options.directory.join(format!("{kind}.pcap"));
        frames::write(*kind, &path, options.mac)?;
        println!("{} frames in {}", kind.frames(), path.display());
    }
    Ok(())
}
