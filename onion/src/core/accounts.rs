//! Who may use how much: rates up and down, and what a node holds in memory for its friends.

use super::*;

/// Limits in bytes a second; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// All that leaves.
    pub up: Option<u64>,
    /// All that comes in tunnels.
    pub down: Option<u64>,
    /// Up and down by kind: own and direct friends', friends of friends', onion circuits'.
    pub kinds: [(Option<u64>, Option<u64>); 3],
}

impl Core {
    /// Sets the limits that hold from now on.
    pub fn set_rates(&mut self, _now: Now, rates: Rates) {
        self.rates = rates;
    }

    /// Sets the limits of one friend, in bytes a second up and down.
    pub fn set_friend_rates(&mut self, _now: Now, friend: FriendKey, up: Option<u64>, down: Option<u64>) {
        if up.is_none() && down.is_none() {
            self.friend_rates.remove(&friend);
        } else {
            self.friend_rates.insert(friend, (up, down));
        }
    }
}
