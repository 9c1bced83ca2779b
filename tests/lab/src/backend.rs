//! A real server: nginx in a namespace, which answers with its name and with the addresses that it saw.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Result;

use crate::decapsulator::Decapsulator;
use crate::lab::VIP;
use crate::namespace::Namespace;
use crate::process::Process;
use crate::wait::{PATIENCE, until, with};

/// Where `dnat` sends the requests: a port that differs from the service's.
pub const DNAT_PORT: u16 = 8081;

pub struct Backend {
    pub name: String,
    pub address: String,
    pub namespace: Rc<Namespace>,
    server: Server,
    /// Where the server's own is made.
    directory: PathBuf,
}

/// What serves: `/` says who answers, `/big` is [`BIG`] bytes long.
pub struct Server {
    access_log: PathBuf,
    nginx: Process,
}

/// Bytes of the big page.
pub const BIG: usize = 1 << 20;

impl Backend {
    /// Makes a host that is on the network already a real server of the VIP.
    pub fn start(
        name: String,
        address: String,
        namespace: Rc<Namespace>,
        decapsulator: &Decapsulator,
        directory: &Path,
    ) -> Result<Self> {
        // The VIP is its own, but on the loopback: it must not answer the router's ARP for it.
        namespace.ip(&format!("address add {VIP}/32 dev lo"))?;
        namespace.sysctl("net.ipv4.conf.all.arp_ignore", "1")?;
        namespace.sysctl("net.ipv4.conf.all.arp_announce", "2")?;
        decapsulator.install(&namespace, "eth0", &address)?;

        let server = Server::start(&name, &namespace, directory)?;
        Ok(Self { name, address, namespace, server, directory: directory.to_path_buf() })
    }

    /// Ends its server; connections break, and the ports are closed.
    pub fn stop_server(&mut self) -> Result<()> {
        self.server.nginx.signal("TERM")?;
        self.server.nginx.until_it_ends(PATIENCE).map(drop)
    }

    /// A server again, where the last one has ended.
    pub fn start_server(&mut self) -> Result<()> {
        self.server = Server::start(&self.name, &self.namespace, &self.directory)?;
        Ok(())
    }

    /// Requests that it has answered.
    pub fn served(&self) -> usize {
        self.server.served()
    }

    pub fn leave_standing(&mut self) {
        self.server.nginx.leave_standing();
    }
}

impl Server {
    /// Starts it in a namespace, and waits until it answers there. `directory`: where its own is made.
    pub fn start(name: &str, namespace: &Namespace, directory: &Path) -> Result<Self> {
        let directory = directory.join(name);
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join("big"), vec![b'.'; BIG])?;
        let access_log = directory.join("access.log");
        let configuration = directory.join("nginx.conf");
        // A scene gives the hosts IPv6 for a while, where the kernel has it.
        let text = self::configuration(name, &directory, Path::new("/proc/sys/net/ipv6").exists());
        std::fs::write(&configuration, text)?;
        let mut command = namespace.helper("nginx");
        command.args(["-e", "stderr", "-p"]).arg(&directory).arg("-c").arg(&configuration);
        let nginx = Process::start(&mut command, &directory.join("nginx.log"))?;
        until(&format!("{name} serves"), PATIENCE, || {
            let url = format!("http://127.0.0.1:{DNAT_PORT}/");
            Ok(namespace.run(&format!("curl --silent --fail --max-time 1 {url}")).ok())
        })
        .map_err(with(|| nginx.tail()))?;
        Ok(Self { access_log, nginx })
    }

    /// Requests that it has answered.
    pub fn served(&self) -> usize {
        std::fs::read_to_string(&self.access_log).map_or(0, |log| log.lines().count())
    }
}

/// One process, nothing outside its directory.
pub fn configuration(name: &str, directory: &Path, has_ipv6: bool) -> String {
    let directory = directory.display();
    let sixth = match has_ipv6 {
        true => format!("listen [::]:80; listen [::]:{DNAT_PORT};"),
        false => String::new(),
    };
    format!(
        r#"daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr;
events {{ worker_connections 8192; }}
http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 8m;
    default_type text/plain;
    # A connection is closed by the client alone.
    keepalive_timeout 1d;
    keepalive_requests 1000000000;
    server {{
        listen 80;
        listen {DNAT_PORT};
        {sixth}
        # Who answers, whom it saw, and as whom it was addressed.
        location / {{ return 200 "{name} $remote_addr:$remote_port $server_addr:$server_port\n"; }}
        # The same for a crowd, whose requests would fill the log.
        location = /crowd {{ access_log off; return 200 "{name}\n"; }}
        # What is to be fetched, and what is put there.
        location /files/ {{ root {directory}; dav_methods PUT; }}
        location = /big {{ root {directory}; }}
    }}
}}
"#
    )
}
