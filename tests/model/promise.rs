//! What follows from the rule, for whoever knows where each connection really is: no established TCP flow leaves a backend that stays
//! active, draining or of weight 0, if it is silent for less than `idle_timeout.tcp`.
//!
//! What is excepted, as DESIGN §6 lists it: a handshake in flight; a SYN in a flow's name where the flow was not remembered; a flow whose
//! backend had an outage meanwhile.

use std::collections::{HashMap, HashSet};

use penstock::service::Tracking;

use super::rule::{Backend, Flow, Idle, Says, View};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Opening,
    Established,
    Closing,
}

#[derive(Debug, Clone, Copy)]
struct Connection {
    backend: Backend,
    state: State,
    /// Milliseconds.
    last: u64,
}

#[derive(Debug, Default)]
pub struct Promise {
    connections: HashMap<Flow, Connection>,
}

impl Promise {
    /// Connections to backends that are down or gone are lost.
    pub fn lose(&mut self, outages: &HashSet<(usize, Backend)>) {
        // What closes is promised nothing anyway, and goes on closing.
        self.connections.retain(|&(service, _), connection| {
            connection.state == State::Closing || !outages.contains(&(service, connection.backend))
        });
    }

    /// A packet went to a backend that is lost already: nothing is promised to what comes of it.
    pub fn went_to_the_lost(&mut self, flow: Flow, backend: Backend, at: u64) {
        self.connections.insert(flow, Connection { backend, state: State::Closing, last: at });
    }

    /// Nothing is promised any more to what is there.
    pub fn forget(&mut self, service: usize) {
        self.connections.retain(|&(of, _), _| of != service);
    }

    /// A packet went somewhere; whether it should not have. `idle`: the least and the most that was ever defined.
    pub fn packet(
        &mut self,
        view: &View,
        idle: [Idle; 2],
        flow: Flow,
        says: Says,
        went: Option<Backend>,
        at: u64,
    ) -> Result<(), String> {
        let definition = &view.definition;
        if !definition.is_tcp || definition.tracking == Tracking::None {
            return Ok(());
        }
        let [least, most] = idle;
        let known = self.connections.get(&flow).copied().filter(|of| match of.state {
            State::Established => at - of.last < least.tcp * 1000,
            // For certain over by anybody's seconds.
            State::Opening | State::Closing => at - of.last < (most.closing + 1) * 1000,
        });
        let established = known.filter(|of| of.state == State::Established);
        if says == Says::Syn {
            match (went, known) {
                // Followed; that it came from the client is not known.
                (Some(backend), Some(of)) if backend == of.backend && established.is_some() => {}
                (Some(backend), _) => {
                    self.connections.insert(flow, Connection { backend, state: State::Opening, last: at });
                }
                (None, _) => {}
            }
            return Ok(());
        }
        if let Some(of) = established
            && went != Some(of.backend)
        {
            return Err(format!("an established connection, {of:?}, goes to {went:?}"));
        }
        let state = match says {
            Says::Nothing => return Ok(()),
            Says::Ends => State::Closing,
            _ if known.is_some_and(|of| of.state == State::Closing) => State::Closing,
            _ => State::Established,
        };
        match went {
            Some(backend) => self.connections.insert(flow, Connection { backend, state, last: at }),
            None => self.connections.remove(&flow),
        };
        Ok(())
    }
}
