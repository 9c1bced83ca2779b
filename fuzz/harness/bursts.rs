//! Frames through the pipeline: any bytes, and scenes of frames that look like traffic.

use std::cell::RefCell;

use penstock::pipeline::BURST;

use super::draw::Draw;
use super::made;
use super::node::{LCORES, Node, Outcome, PORTS, stays_right};

thread_local! {
    static NODE: RefCell<Node> = RefCell::new(Node::new());
}

/// The frames of an input for [`pipeline`]: each stands behind its length in two bytes (network order).
pub fn frames(input: &[u8]) -> Vec<Vec<u8>> {
    let (mut frames, mut rest) = (Vec::new(), input);
    while let Some((length, more)) = rest.split_first_chunk::<2>()
        && frames.len() < BURST
    {
        let (frame, more) = more.split_at(usize::from(u16::from_be_bytes(*length)).min(more.len()));
        frames.push(frame.to_vec());
        rest = more;
    }
    frames
}

/// Input: frames. They go through the pipeline as one burst.
pub fn pipeline(input: &[u8]) {
    NODE.with_borrow_mut(|node| {
        node.burst(0, 0, &frames(input));
        node.end();
    });
}

/// Input: choices, of which [`made`] builds frames with plausible headers; they come in bursts, on ports and lcores and after times
/// that are chosen, too. Gives what came of them.
pub fn scenes(input: &[u8]) -> Vec<Outcome> {
    let mut draw = Draw(input);
    let (mut known, mut all) = (made::Known::default(), Vec::new());
    NODE.with_borrow_mut(|node| {
        for _ in 0..8 {
            if draw.0.is_empty() {
                break;
            }
            node.advance(draw.pick(&[0, 0, 1, 9, 10, 11, 2000, 2001, 600_001]));
            let (lcore, port) = (draw.below(LCORES), draw.below(usize::from(PORTS)) as u8);
            let most = if draw.one_in(8) { BURST } else { 4 };
            let count = 1 + draw.below(most);
            let made: Vec<_> = (0..count).map(|_| made::frame(&mut draw, &known)).collect();
            let frames: Vec<_> = made.iter().map(|made| made.bytes.clone()).collect();
            let outcomes = node.burst(lcore, port, &frames);
            for (made, outcome) in made.into_iter().zip(&outcomes) {
                if made.is_right {
                    stays_right(outcome, &made.bytes);
                    if outcome.is_sent() {
                        known.note(made.bytes, outcome.bytes.clone());
                    }
                }
            }
            all.extend(outcomes);
        }
        node.end();
    });
    all
}

/// The services, of all, whose backends were sent nothing so far on this thread.
pub fn unserved() -> Vec<String> {
    NODE.with_borrow(Node::unserved)
}
