//! `penstock top`: a node as it runs.
//!
//! What is seen and where one is in it ([`model`]), what is asked of the node ([`look`]) and how it is drawn ([`draw`]) know no terminal. Here
//! is the loop around them: a key, an answer, or the time for the next look, whichever comes first.

mod draw;
mod look;
mod model;
mod rates;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal};
use std::pin::pin;
use std::time::{Duration, SystemTime};

use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::table::is_coloured;
use super::{Node, Place, connect};
use crate::cli::Failure;
use look::{Look, Wanted};
use model::{Then, Top};

/// Watch a running node: rates, services, backends, drops
///
/// In the terminal, until q is pressed; ? shows the keys. A node that goes away is waited for.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// How often the node is asked
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = period)]
    interval: Duration,
}

fn period(text: &str) -> Result<Duration, String> {
    let seconds: Result<f64, _> = text.parse();
    match seconds {
        Ok(seconds) if (0.2..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("seconds from 0.2 to 3600".to_owned()),
    }
}

/// An answer is waited for so long; then the node does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

pub fn run(args: &Args) -> Result<(), Failure> {
    let is_dumb = std::env::var_os("TERM").is_some_and(|name| name == "dumb");
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() || is_dumb {
        return Err(Failure::BadInput("top needs a terminal; `penstock status` prints the same once".to_owned()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut screen = Screen::open()?;
    let ended = runtime.block_on(watch(args, &mut screen));
    drop(screen);
    ended.map_err(|error| Failure::Failed(format!("the terminal: {error}")))
}

/// The terminal, while it is ours. A panic gives it back before it speaks.
struct Screen(ratatui::DefaultTerminal);

impl Screen {
    fn open() -> io::Result<Self> {
        Ok(Self(ratatui::try_init().inspect_err(|_| ratatui::restore())?))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Until somebody wants no more.
async fn watch(args: &Args, screen: &mut Screen) -> io::Result<()> {
    let (mut top, mut node, is_coloured) = (Top::default(), None, is_coloured());
    let mut events = read_events();
    let mut ends = Ends { terminate: signal(SignalKind::terminate())?, hangup: signal(SignalKind::hangup())? };
    let mut period = tokio::time::interval(args.interval);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        screen.0.draw(|frame| draw::draw(&mut top, frame, is_coloured))?;
        // Either the next look's time comes, or a key wants one.
        if tokio::select! {
            then = next(&mut events, &mut top) => match then? {
                Then::Quit => return Ok(()),
                then => then == Then::Draw,
            },
            () = ends.come() => return Ok(()),
            _ = period.tick() => false,
        } || top.is_paused
        {
            continue;
        }
        let mut answer = pin!(ask(&args.place, &mut node, top.wanted()));
        loop {
            tokio::select! {
                then = next(&mut events, &mut top) => if then? == Then::Quit {
                    return Ok(());
                },
                () = ends.come() => return Ok(()),
                answer = &mut answer => {
                    match answer {
                        Ok(look) => {
                            // What is worth asking for is known now.
                            if top.status.is_none() {
                                period.reset_immediately();
                            }
                            top.saw(look);
                        }
                        Err(why) => top.lost(SystemTime::now(), why),
                    }
                    break;
                }
            }
            screen.0.draw(|frame| draw::draw(&mut top, frame, is_coloured))?;
        }
    }
}

/// A look at a node, after a connection where there is none.
async fn ask(place: &Place, node: &mut Option<Node>, wanted: Wanted) -> Result<Look, String> {
    let asking = async {
        if node.is_none() {
            *node = Some(Node { channel: connect(place).await?, at: place.api.clone() });
        }
        match node {
            Some(node) => look::look(node, wanted).await,
            None => Err(Failure::Failed("no connection".to_owned())),
        }
    };
    let answer = match tokio::time::timeout(PATIENCE, asking).await {
        Ok(answer) => answer.map_err(|failure| failure.to_string()),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    };
    if answer.is_err() {
        *node = None;
    }
    answer
}

/// What the terminal tells, from a thread of its own: reading blocks.
fn read_events() -> mpsc::Receiver<io::Result<Event>> {
    let (tell, events) = mpsc::channel(64);
    std::thread::spawn(move || {
        loop {
            let event = event::read();
            let is_over = event.is_err();
            if tell.blocking_send(event).is_err() || is_over {
                return;
            }
        }
    });
    events
}

async fn next(events: &mut mpsc::Receiver<io::Result<Event>>, top: &mut Top) -> io::Result<Then> {
    match events.recv().await {
        Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => Ok(top.press(key)),
        // Another size, say.
        Some(Ok(_)) => Ok(Then::Draw),
        Some(Err(error)) => Err(error),
        None => Ok(Then::Quit),
    }
}

/// The signals that end a process: the terminal is to be given back first.
struct Ends {
    terminate: Signal,
    hangup: Signal,
}

impl Ends {
    async fn come(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
