//! `penstock capture`: what it shows of real traffic, and that others' programs read what it writes.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{IDLE, Scene, definitions, require, start_without_feed};
use crate::lab::{CLIENT, Lab, VIP, backend_address};
use crate::process::{Process, output};
use crate::say::Story;
use crate::wait::{PATIENCE, until};

pub const SCENE: Scene = Scene { title: "frames of a live node are captured with their verdict", play };

const REQUESTS: usize = 40;

fn play(lab: &mut Lab, story: &mut Story) -> Result<()> {
    start_without_feed(lab, &definitions("capture", IDLE))?;
    let path = |lab: &Lab, name: &str| lab.directory().join(name).display().to_string();
    let begin = |lab: &Lab, words: &[&str], log: &str| -> Result<Process> {
        let log = lab.directory().join(log);
        let _ = std::fs::remove_file(&log);
        let mut process = lab.node.ask_on(&[&["capture"], words].concat(), &log)?;
        process.until_it_says("capturing on wan0", PATIENCE)?;
        Ok(process)
    };
    // Datagrams to a port that is no service's, until they are seen.
    let knock = |lab: &Lab, process: &mut Process| {
        until("the frames are captured", PATIENCE, || {
            let send = format!("for k in 1 2 3; do echo knock > /dev/udp/{VIP}/81; done");
            output(lab.client.namespace.command("bash").args(["-c", &send]))?;
            Ok((!process.running()).then_some(()))
        })
    };

    story.claim("what is dropped is shown as it comes, with the reason", || {
        let mut lines = begin(lab, &["--reason", "no_service", "--count", "3"], "drops.log")?;
        knock(lab, &mut lines)?;
        let said = lines.said();
        let shown = said.lines().filter(|line| line.contains(&format!(" dropped no_service  udp {CLIENT}:")));
        require(shown.count() == 3 && said.contains(&format!("> {VIP}:81  ")), || said.clone())?;
        require(said.contains("frames taken, 0 lost"), || said.clone())?;
        Ok(said)
    })?;
    story.claim("--json is one document, a frame a line", || {
        let mut json = begin(lab, &["--verdict", "dropped", "--count", "3", "--json"], "drops.json")?;
        knock(lab, &mut json)?;
        let said = json.said();
        // What it says on stderr stands around it.
        let document = said.find('{').zip(said.rfind('}')).map(|(from, to)| &said[from..=to]).context("no document")?;
        let document: Value = serde_json::from_str(document)?;
        let frames = document["frames"].as_array().context("no frames")?;
        let is_so = |frame: &Value| frame["reason"] == "no_service" && frame["port"] == "wan0";
        require(frames.len() == 3 && frames.iter().all(is_so), || document.to_string())?;
        Ok(said)
    })?;

    let file = path(lab, "web.pcapng");
    story.claim("requests go on while all is captured, and tcpdump reads the file that Ctrl-C ends", || {
        let words = ["--service", "web", "--rate", "100000", "--sent", "--write", &file];
        let mut whole = begin(lab, &words, "web.log")?;
        let first = || {
            lab.client.curl(&format!("http://{VIP}/"))?;
            Ok((std::fs::metadata(&file)?.len() > 1000).then_some(()))
        };
        until("the first frame is in the file", PATIENCE, first)?;
        lab.client.curl_many(&format!("http://{VIP}/"), REQUESTS)?;
        until_still(&file)?;
        whole.signal("INT")?;
        let status = whole.until_it_ends(Duration::from_secs(5))?;
        require(status.success() && whole.said().contains(" 0 lost, 0 over the rate"), || whole.said())?;
        let read = |filter: &str| output(Command::new("tcpdump").args(["-nr", &file, filter]));
        let (received, sent) = (read(&format!("src host {CLIENT} and dst host {VIP} and tcp"))?, read("ip proto 4")?);
        let opened = received.lines().filter(|line| line.contains("Flags [S]")).count();
        // Each request is a connection.
        require(opened >= REQUESTS, || received.clone())?;
        require(sent.lines().count() == received.lines().count(), || format!("{received}\n{sent}"))?;
        let told = String::from_utf8_lossy(&std::fs::read(&file)?).into_owned();
        let comments = (1..=3).map(|number| {
            let comment = format!("verdict=forwarded service=web backend={}:80 lcore=", backend_address(number));
            told.matches(&comment).count()
        });
        let comments: Vec<usize> = comments.collect();
        require(comments.iter().sum::<usize>() == received.lines().count() * 2, || format!("{comments:?}"))?;
        Ok(format!("{}{opened} connections, by backend {comments:?} frames", whole.said()))
    })?;
    story.claim("-w - is for a pipe to tcpdump", || {
        let piped = "\"$0\" capture --reason no_service --count 3 --write - --api \"$1\" | tcpdump -nr -";
        let mut command = lab.node.namespace.helper("sh");
        command.args(["-c", piped]).arg(lab.node.program()).arg(lab.node.api());
        let mut pipe = Process::start(&mut command, &lab.directory().join("pipe.log"))?;
        knock(lab, &mut pipe)?;
        let said = pipe.said();
        let shown = said.lines().filter(|line| line.contains(&format!("> {VIP}.81: UDP"))).count();
        require(shown == 3, || said.clone())?;
        Ok(said)
    })?;
    story.claim("a second capture is refused, and may begin as soon as the first is killed", || {
        let first = begin(lab, &["--verdict", "punted"], "first.log")?;
        let second = ["capture", "--verdict", "answered", "--duration", "1"];
        let refused = lab.node.ask(&second)?.refused(1)?;
        require(refused.contains("another capture is under way"), || refused.clone())?;
        first.signal("KILL")?;
        until("the second may begin", Duration::from_secs(5), || lab.node.ask(&second)?.good().map(Some))?;
        Ok(refused)
    })
}

/// Until a file has not grown for a while: the last connections are closed, and what was taken of them has come.
fn until_still(path: &str) -> Result<()> {
    let mut known = (0, Instant::now());
    until("the last frame is in the file", PATIENCE, || {
        let length = std::fs::metadata(path)?.len();
        if length != known.0 {
            known = (length, Instant::now());
        }
        Ok((known.1.elapsed() > Duration::from_millis(500)).then_some(()))
    })
}
