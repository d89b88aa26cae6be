//! Cover on links: pads after silence, so that an idle link and one that carries little look alike.

use super::connections::Connection;
use super::*;
use crate::cell::CELL_LEN;

/// A pad leaves after a silence drawn from an exponential law with this mean, cut at both ends
/// (design 2.4).
const PAD_MEAN_MS: f64 = 30_000.0;
const PAD_MS: (f64, f64) = (1_000.0, 60_000.0);

impl Core {
    /// Draws when the next pad leaves if nothing else does.
    pub(super) fn schedule_keepalive(&mut self, now: Now, id: ConnId) {
        // Inverse transform of 53 random bits.
        let even = (self.rng.range(1, 1 << 53) as f64) / (1_u64 << 53) as f64;
        let gap_ms = match self.circuits.settings.cover {
            Cover::Idle => (-even.ln() * PAD_MEAN_MS).clamp(PAD_MS.0, PAD_MS.1),
            // The peer takes a link for dead that is silent for two minutes.
            Cover::Off => PAD_MS.1,
            // A little less, on average, than the time that a cell takes at this rate.
            Cover::Constant(rate) => {
                let cell_ms = CELL_LEN as f64 * 1000.0 / rate.max(1) as f64;
                (cell_ms * (0.45 + even)).clamp(1.0, PAD_MS.1)
            }
        };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.set_keepalive(now.at + Duration::from_micros((gap_ms * 1000.0) as u64));
        }
    }

    /// Cover changed: pads that are due later by the old setting are drawn anew.
    pub(super) fn renew_keepalives(&mut self, now: Now) {
        let open = |c: &Connection| c.peek().is_some();
        let ids: Vec<ConnId> = self.connections.iter().filter(|(_, c)| open(c)).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.schedule_keepalive(now, id));
    }
}
