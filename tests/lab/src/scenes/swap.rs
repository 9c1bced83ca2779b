//! Definitions in a Kubernetes ConfigMap: the file is a link into a directory that is itself swapped by a link.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::Scene;
use crate::lab::{Lab, two_backends};
use crate::say::Story;
use crate::wait::until;

pub const SCENE: Scene = Scene { title: "the feed's file as a ConfigMap mounts it, and as editors leave it", play };

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    let file = lab.node.services();
    let directory = file.parent().expect("a file in a directory").to_path_buf();
    lab.node.publish(&two_backends("plain file"))?;

    story.claim("a swap of ..data publishes, twice", || {
        mount(&directory, "one", "configmap 1")?;
        std::fs::remove_file(&file)?;
        symlink("..data/services.json", &file)?;
        lab.node.until_version("configmap 1")?;
        mount(&directory, "two", "configmap 2")?;
        std::fs::remove_dir_all(directory.join("..one"))?;
        lab.node.until_version("configmap 2")?;
        Ok("services.json -> ..data/services.json, ..data -> ..one, then ..two; both versions came into force".into())
    })?;
    story.claim("a file that vanishes changes nothing; a file that is there again is read", || {
        let log_before = lab.node.log().len();
        std::fs::remove_file(&file)?;
        // It must have noticed before the next check means anything.
        until("the loss of the file in penstock's log", Duration::from_secs(3), || {
            Ok(lab.node.log()[log_before..].contains("services.json").then_some(()))
        })?;
        lab.node.until_version("configmap 2")?;
        lab.node.publish(&two_backends("back again"))?;
        Ok("\"configmap 2\" stayed in force without a file; then \"back again\"".into())
    })?;
    story.claim("a file written in two halves is read once whole", || {
        let text = two_backends("in halves").to_string();
        let (one, two) = text.split_at(text.len() / 2);
        std::fs::write(&file, one)?;
        std::fs::write(&file, format!("{one}{two}"))?;
        lab.node.until_version("in halves")?;
        Ok("\"in halves\" is in force".into())
    })?;
    for left in ["..data", "..two"] {
        let path = directory.join(left);
        let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
    }
    Ok(())
}

/// What the kubelet does (AtomicWriter): a new directory, then `..data` is renamed over the old link.
fn mount(directory: &Path, name: &str, version: &str) -> Result<()> {
    let real = directory.join(format!("..{name}"));
    std::fs::create_dir(&real)?;
    std::fs::write(real.join("services.json"), two_backends(version).to_string())?;
    let link = directory.join("..data_tmp");
    symlink(format!("..{name}"), &link)?;
    std::fs::rename(&link, directory.join("..data"))?;
    Ok(())
}
