//! The gRPC contract of `proto/` becomes code, where the API is built. No `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "api")]
    contract()?;
    Ok(())
}

#[cfg(feature = "api")]
fn contract() -> Result<(), Box<dyn std::error::Error>> {
    use std::path::Path;

    use protox::prost::Message;

    let names = ["service", "definitions", "backends", "node", "flows", "feed"];
    let files = protox::compile(names.map(|name| format!("penstock/v1/{name}.proto")), ["proto"])?;
    // For reflection.
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("penstock.v1.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(files)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
