//! Finds DPDK, compiles the shim, generates the bindings. Whatever is missing is said in one line, with the package to install.

use std::path::{Path, PathBuf};
use std::process::exit;

/// Functions and types that the `dpdk` crate uses; nothing else is bound, which keeps the build short and the surface readable.
const FUNCTIONS: &[&str] = &[
    "shim_.*",
    "rte_strerror",
    "rte_eal_init",
    "rte_eal_(remote_launch|wait_lcore|get_lcore_state)",
    "rte_get_(next_lcore|main_lcore|tsc_hz)",
    "rte_thread_(register|unregister)",
    "rte_dev_(probe|remove)",
    "rte_pktmbuf_(pool_create|free_bulk)",
    "rte_mempool_(avail_count|in_use_count)",
    "rte_ring_(create|free)",
    "rte_eth_dev_(get_port_by_name|info_get|configure|start|stop|close|set_mtu|socket_id|adjust_nb_rx_tx_desc)",
    "rte_eth_dev_(default_mac_addr_set|rss_reta_update)",
    "rte_eth_(rx|tx)_queue_setup",
    "rte_eth_(macaddr_get|promiscuous_enable|promiscuous_disable|allmulticast_enable|link_get_nowait|stats_get)",
];

/// Only ever behind a pointer (the first two), or with fields both packed and aligned, which Rust cannot spell.
const OPAQUE: &[&str] = &["rte_mempool", "rte_ring", "rte_(arp|gtp|l2tpv2|vxlan|geneve|ecpri|macsec).*"];

fn main() {
    for file in ["build.rs", "src/shim.c", "src/shim.h"] {
        println!("cargo::rerun-if-changed={file}");
    }
    let dpdk = pkg_config::Config::new()
        .atleast_version("22.11")
        .cargo_metadata(false)
        .probe("libdpdk")
        .unwrap_or_else(|error| fail(&missing_dpdk(&error)));
    for path in &dpdk.link_paths {
        println!("cargo::rustc-link-search=native={}", path.display());
    }

    compile_shim(&dpdk.include_paths);
    // After the shim, which needs them. Drivers are no business of the linker: EAL loads them when it starts.
    for library in ["rte_ethdev", "rte_mbuf", "rte_mempool", "rte_ring", "rte_eal"] {
        println!("cargo::rustc-link-lib=dylib={library}");
    }
    bind(&dpdk.include_paths);
}

/// What DPDK's own `pkg-config --cflags` says besides include paths.
fn flags() -> Vec<&'static str> {
    let mut flags = vec!["-D_GNU_SOURCE", "-include", "rte_config.h"];
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        flags.push("-march=corei7");
    }
    flags
}

fn compile_shim(include_paths: &[PathBuf]) {
    let mut build = cc::Build::new();
    // System headers: their warnings are not ours to mend.
    for path in include_paths {
        build.flag("-isystem").flag(path);
    }
    for flag in flags() {
        build.flag(flag);
    }
    build.file("src/shim.c").opt_level(3).warnings_into_errors(true).compile("penstock_dpdk_shim");
}

fn bind(include_paths: &[PathBuf]) {
    let mut builder = bindgen::Builder::default()
        .header("src/shim.h")
        .clang_args(flags())
        .clang_args(include_paths.iter().map(|path| format!("-isystem{}", path.display())))
        .allowlist_var("shim_.*")
        .allowlist_var("RTE_(PKTMBUF_HEADROOM|MAX_LCORE|MAX_ETHPORTS|ETHER_.*LEN)")
        .allowlist_var("RING_F_.*")
        .prepend_enum_name(false)
        .derive_default(true)
        .generate_comments(false)
        .merge_extern_blocks(true);
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for name in OPAQUE {
        builder = builder.opaque_type(name);
    }
    // bindgen panics where it finds no libclang, and errs where clang finds no headers of its own.
    std::panic::set_hook(Box::new(|_| {}));
    let bindings = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| builder.generate())) {
        Ok(Ok(bindings)) => bindings,
        Ok(Err(error)) => fail(&format!(
            "DPDK's headers cannot be read: {error}. If a header of C itself is missing: apt-get install libclang-dev"
        )),
        Err(_) => fail("libclang is missing, which reads DPDK's headers: apt-get install libclang-dev"),
    };
    let _ = std::panic::take_hook();
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    bindings.write_to_file(Path::new(&out).join("bindings.rs")).unwrap_or_else(|error| fail(&error.to_string()));
}

fn missing_dpdk(error: &pkg_config::Error) -> String {
    match error {
        pkg_config::Error::Command { .. } => {
            "pkg-config is missing, which finds DPDK: apt-get install pkg-config libdpdk-dev".to_owned()
        }
        pkg_config::Error::ProbeFailure { .. } | pkg_config::Error::Failure { .. } => {
            "DPDK 22.11 or later is missing: apt-get install libdpdk-dev (or build without it: --no-default-features --features control)"
                .to_owned()
        }
        other => format!("pkg-config cannot tell about DPDK: {other}"),
    }
}

/// Cargo fails the build for the sake of the message; a failure of this program too would bury it in its whole output.
fn fail(reason: &str) -> ! {
    println!("cargo::error={reason}");
    exit(0)
}
