//! Who may use how much of this node: rates up and down, work on a friend's behalf, and memory.
//!
//! Nothing is dropped for a rate. Up, cells wait until a share of the rate is there; down, credit
//! is granted only as far as it goes. Work that nobody asked for is counted, and the driver stops
//! reading the link whose account is empty ([`Core::may_read`]). Limits: `docs/protocol/link.md`.

use super::connections::{CREDIT_TICK, Connection, OpenLink};
use super::*;
use crate::budget::{Bucket, Budgets, Credit, Pool, Share};
use crate::cell::{CircId, Command, SmallCell, encode_credits};
use crate::control::{MAX_DELTA, Part};
use crate::link::{Broken, Link};
use crate::schedule::{Allowance, Class};
use crate::tunnel::Tunnel;
use std::ops::Bound;

/// Limits in bytes a second; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// All that leaves.
    pub up: Option<u64>,
    /// All that comes in tunnels.
    pub down: Option<u64>,
    /// Up and down by kind: own and direct friends', friends of friends', circuits'.
    pub kinds: [(Option<u64>, Option<u64>); 3],
}

/// Reading goes on when so many tokens are there again.
const READ_AGAIN: f64 = 16.0;
/// What a page of the catalogue costs at most, in cells and for itself.
const PAGE_COST: f64 = (MAX_DELTA / crate::cell::STREAM_LEN + 3) as f64;
/// A credit cell that gives back so many cells costs nothing: they were sent before.
const WORTH_A_CELL: u32 = 8;
/// Cells of tunnels that were closed here may still come; more of them count as unasked.
const MAX_LATE: u32 = 64 * crate::link::WINDOW_MAX;

/// The pools of one direction: of all traffic, then by class.
#[derive(Debug, Default)]
pub(crate) struct Pools([Option<Pool>; 4]);

impl Pools {
    fn new(rates: [Option<u64>; 4], pool: impl Fn(Option<u64>) -> Option<Pool>) -> Self {
        Self(rates.map(pool))
    }

    fn poll_timeout(&self) -> Option<Duration> {
        self.0.iter().flatten().fold(None, |next, pool| earliest(next, pool.poll_timeout()))
    }

    fn is_limited(&self) -> bool {
        self.0.iter().any(Option::is_some)
    }
}

/// What a link holds of the pools of one direction, and the friend's own limit.
#[derive(Debug, Default)]
struct Side {
    /// The friend's weight among those who share; 0 is as good as 1.
    weight: f64,
    shares: [Share; 4],
    friend: Option<Pool>,
    friend_share: Share,
}

impl Side {
    fn is_limited(&self, pools: &Pools) -> bool {
        self.friend.is_some() || pools.is_limited()
    }

    fn allowance(&self, pools: &Pools) -> Allowance {
        let held = |pool: &Option<Pool>, share: &Share| pool.as_ref().map_or(u32::MAX, |_| share.cells);
        let [all, own, fof, onion] = &pools.0;
        let [share, own_share, fof_share, onion_share] = &self.shares;
        Allowance {
            all: held(all, share).min(held(&self.friend, &self.friend_share)),
            classes: [held(own, own_share), held(fof, fof_share), held(onion, onion_share)],
        }
    }

    /// Cells of these classes were sent or granted.
    fn use_up(&mut self, all: u32, classes: [u32; 3]) {
        let [share, by_class @ ..] = &mut self.shares;
        share.cells = share.cells.saturating_sub(all);
        self.friend_share.cells = self.friend_share.cells.saturating_sub(all);
        for (share, used) in by_class.iter_mut().zip(classes) {
            share.cells = share.cells.saturating_sub(used);
        }
    }

    /// Gets in line for what it needs to go on. `bulk`: something waits that has no class.
    fn want(&mut self, pools: &mut Pools, conn: ConnId, ready: [bool; 3], bulk: bool) {
        let weight = if self.weight > 0.0 { self.weight } else { 1.0 };
        let get_in_line = |pool: &mut Option<Pool>, share: &mut Share| {
            let Some(pool) = pool.as_mut().filter(|_| share.cells == 0) else { return true };
            if !std::mem::replace(&mut share.waiting, true) {
                pool.wait(conn, weight);
            }
            false
        };
        let [all, by_class @ ..] = &mut pools.0;
        let [share, shares @ ..] = &mut self.shares;
        let mut can_go = bulk;
        for ((pool, share), ready) in by_class.iter_mut().zip(shares).zip(ready) {
            can_go |= ready && get_in_line(pool, share);
        }
        // A share of the whole is asked for last, so that it is never held by somebody who waits
        // for something else.
        if can_go && get_in_line(&mut self.friend, &mut self.friend_share) {
            get_in_line(all, share);
        }
    }

    /// Cells that came or left without asking.
    fn owe(&mut self, pools: &mut Pools, now: Duration, cells: u32, class: Option<Class>) {
        let [all, by_class @ ..] = &mut pools.0;
        let of_class = class.and_then(|c| by_class.get_mut(c.index())).and_then(Option::as_mut);
        let owing = [all.as_mut(), self.friend.as_mut(), of_class];
        owing.into_iter().flatten().for_each(|pool| pool.owe(now, cells));
    }

    fn give_back(&mut self, pools: &mut Pools, cells: u32, class: Class) {
        let [all, by_class @ ..] = &mut pools.0;
        let of_class = by_class.get_mut(class.index()).and_then(Option::as_mut);
        let paid = [all.as_mut(), self.friend.as_mut(), of_class];
        paid.into_iter().flatten().for_each(|pool| pool.give_back(cells));
    }

    fn set_friend(&mut self, pool: Option<Pool>) {
        (self.friend, self.friend_share) = (pool, Share::default());
    }
}

/// What one link's friend uses of this node.
#[derive(Debug)]
pub(crate) struct Account {
    /// Cells and messages that came unasked.
    work: Bucket,
    /// The link is not read before this.
    stopped_until: Option<Duration>,
    /// Diffie-Hellman on the friend's behalf.
    handshakes: Bucket,
    /// Catalogue pages that were asked for.
    pages_due: u32,
    /// Cells that may still come for tunnels that were closed here.
    late: u32,
    /// Pulls that wait for room in the control queue, by part.
    pulls: [Option<(u64, u64)>; 2],
    up: Side,
    down: Side,
    /// The tunnel that was granted credit last, when there was not enough for all.
    granted_last: CircId,
    /// Sessions that are served.
    pub(super) serving: usize,
    /// Until when the friend is known to watch something that it is served.
    pub(super) watched_until: Duration,
    /// Cells to be passed on, as they stand in the sum over all links.
    relayed: usize,
}

impl Account {
    /// The friend made work that nobody asked for.
    pub(super) fn charge(&mut self, now: Now, tokens: usize) {
        self.work.owe(now.at, tokens as f64);
    }

    /// Something that was asked for, or was paid for before.
    pub(super) const fn earn(&mut self, tokens: f64) {
        self.work.give_back(tokens);
    }

    /// The friend gave credit for so many cells.
    pub(super) fn credited(&mut self, cells: u32) {
        if cells >= WORTH_A_CELL {
            self.earn(1.0);
        }
    }

    /// A page of the catalogue was asked for.
    pub(super) const fn page_asked(&mut self) {
        self.pages_due = self.pages_due.saturating_add(1);
    }

    /// A page of the catalogue came.
    pub(super) fn page_came(&mut self) {
        if let Some(due) = self.pages_due.checked_sub(1) {
            self.pages_due = due;
            self.earn(PAGE_COST);
        }
    }

    /// A cell came for a tunnel that is not there.
    pub(super) fn stray_cell(&mut self, now: Now) {
        match self.late.checked_sub(1) {
            Some(late) => self.late = late,
            None => self.charge(now, 1),
        }
    }

    /// Whether Diffie-Hellman may be computed for the friend.
    pub(super) fn may_shake_hands(&mut self, now: Now) -> bool {
        self.handshakes.take(now.at)
    }
}

/// Who watches counts so many times more than who only wants to have something.
const WATCHES: f64 = 4.0;

/// Classes of tunnels that have credit to give.
fn due_classes(now: Now, tunnels: &BTreeMap<CircId, Tunnel>) -> [bool; 3] {
    let mut due = [false; 3];
    for tunnel in tunnels.values().filter(|t| t.window.is_due(now.at)) {
        if let Some(due) = due.get_mut(tunnel.flow.class.index()) {
            *due = true;
        }
    }
    due
}

impl Core {
    /// Sets the limits that hold from now on.
    pub fn set_rates(&mut self, now: Now, rates: Rates) {
        self.rates = rates;
        let [own, fof, onion] = rates.kinds;
        self.up = Pools::new([rates.up, own.0, fof.0, onion.0], |rate| Pool::up(now.at, rate));
        self.down = Pools::new([rates.down, own.1, fof.1, onion.1], |rate| Pool::down(now.at, rate));
        for open in self.connections.values_mut().filter_map(Connection::open) {
            (open.account.up.shares, open.account.down.shares) = Default::default();
        }
    }

    /// Sets the limits of one friend, in bytes a second up and down.
    pub fn set_friend_rates(&mut self, now: Now, friend: FriendKey, up: Option<u64>, down: Option<u64>) {
        if up.is_none() && down.is_none() {
            self.friend_rates.remove(&friend);
        } else {
            self.friend_rates.insert(friend, (up, down));
        }
        for open in self.connections.values_mut().filter_map(Connection::open) {
            if open.who == Who::Friend(friend) {
                open.account.up.set_friend(Pool::up(now.at, up));
                open.account.down.set_friend(Pool::down(now.at, down));
            }
        }
    }

    /// The limits that hold.
    pub const fn rates(&self) -> Rates {
        self.rates
    }

    /// Sets what friends may use. Shares of links hold at once; what a friend may save up on a link
    /// holds for links that are made from now on.
    pub fn set_budgets(&mut self, budgets: Budgets) {
        self.budgets = budgets;
        for open in self.connections.values_mut().filter_map(Connection::open) {
            open.link.set_weights(budgets.weights);
        }
    }

    /// What friends may use.
    pub const fn budgets(&self) -> Budgets {
        self.budgets
    }

    /// A friend's link as it is, for nodes that break the rules in tests.
    #[doc(hidden)]
    pub fn raw_link(&mut self, friend: FriendKey) -> Option<&mut Link> {
        let conn = self.friends.get(&friend)?.link?;
        self.connections.get_mut(&conn)?.open().map(|open| &mut open.link)
    }

    /// The account of a new link.
    pub(super) fn new_account(&self, now: Now, who: Who) -> Account {
        let Budgets { work, handshakes, .. } = self.budgets;
        let (up, down) = match who {
            Who::Friend(key) => self.friend_rates.get(&key).copied().unwrap_or_default(),
            Who::Invite(_) => (None, None),
        };
        let side = |friend| Side { friend, ..Side::default() };
        Account {
            work: Bucket::for_work(work),
            stopped_until: None,
            handshakes: Bucket::new(handshakes.0, handshakes.1),
            pages_due: 0,
            late: 0,
            pulls: [None; 2],
            up: side(Pool::up(now.at, up)),
            down: side(Pool::down(now.at, down)),
            granted_last: 0,
            serving: 0,
            watched_until: Duration::ZERO,
            relayed: 0,
        }
    }

    // Rates.

    /// Gives out what the rates allow by now, and lets stopped links be read again.
    pub(super) fn hand_out(&mut self, now: Now) {
        for open in self.connections.values_mut().filter_map(Connection::open) {
            open.account.stopped_until = open.account.stopped_until.filter(|at| *at > now.at);
        }
        self.weigh(now);
        self.hand_out_up(now);
        self.hand_out_down(now);
    }

    /// What is scarce goes by what each friend gave.
    fn weigh(&mut self, now: Now) {
        let Self { connections, friends, up, .. } = self;
        if !up.is_limited() {
            return;
        }
        for open in connections.values_mut().filter_map(Connection::open) {
            let Who::Friend(key) = open.who else { continue };
            let Some(friend) = friends.get_mut(&key) else { continue };
            friend.credit.received(now.at, friend.traffic.received);
            let watches = if now.at < open.account.watched_until { WATCHES } else { 1.0 };
            open.account.up.weight = watches * friend.credit.weight(friend.onion.trust.weight());
        }
    }

    /// What a friend gave and took while others waited, in bytes, older ones counting less.
    pub fn credit(&self, friend: FriendKey) -> (u64, u64) {
        self.friends.get(&friend).map_or((0, 0), |friend| friend.credit.bytes())
    }

    /// The same as it was before a restart.
    pub fn set_credit(&mut self, now: Now, friend: FriendKey, given: u64, taken: u64) {
        if let Some(friend) = self.friends.get_mut(&friend) {
            friend.credit = Credit::of(given, taken, now.at);
        }
    }

    fn hand_out_up(&mut self, now: Now) {
        let Self { connections, up, .. } = self;
        let mut taken = Vec::new();
        let ready = |open: &OpenLink| (open.link.ready_classes(), open.link.has_bulk());
        for open in connections.values_mut().filter_map(Connection::open) {
            serve_friend(&mut open.account.up, now);
        }
        for index in [1, 2, 3, 0] {
            // What was given just now may be all that somebody needed to ask for the next.
            if index == 0 && up.is_limited() {
                for (conn, connection) in &mut *connections {
                    let Some(open) = connection.open() else { continue };
                    let (classes, bulk) = ready(open);
                    open.account.up.want(up, *conn, classes, bulk);
                }
            }
            let got = serve_pool(connections, up, index, now, |open| {
                let ready = ready(open);
                (&mut open.account.up, ready)
            });
            // What nobody else waited for is free.
            taken.extend(got.into_iter().filter(|(.., contended)| index == 0 && *contended));
        }
        for (conn, cells, _) in taken {
            let friend = self.friend_of(conn).and_then(|key| self.friends.get_mut(&key));
            let bytes = u64::from(cells) * crate::cell::CELL_LEN as u64;
            friend.into_iter().for_each(|friend| friend.credit.take(now.at, bytes));
        }
    }

    fn hand_out_down(&mut self, now: Now) {
        let Self { connections, down, .. } = self;
        let mut got = Vec::new();
        for (conn, connection) in &mut *connections {
            let Some(open) = connection.open() else { continue };
            if serve_friend(&mut open.account.down, now) {
                got.push(*conn);
            }
        }
        for index in [1, 2, 3, 0] {
            if index == 0 && down.is_limited() {
                for (conn, connection) in &mut *connections {
                    let Some(open) = connection.open() else { continue };
                    let due = due_classes(now, &open.tunnels);
                    open.account.down.want(down, *conn, due, false);
                }
            }
            let ready = |open: &mut OpenLink| due_classes(now, &open.tunnels);
            let some = serve_pool(connections, down, index, now, |open| {
                let due = ready(open);
                (&mut open.account.down, (due, false))
            });
            got.extend(some.into_iter().map(|(conn, ..)| conn));
        }
        got.dedup();
        got.into_iter().for_each(|conn| self.give_credit(now, conn, true));
    }

    /// When [`Core::hand_out`] has something to do.
    pub(super) fn next_share(&self) -> Option<Duration> {
        let mut next = earliest(self.up.poll_timeout(), self.down.poll_timeout());
        for open in self.connections.values().filter_map(Connection::peek) {
            let Account { up, down, stopped_until, .. } = &open.account;
            for side in [up, down] {
                next = earliest(next, side.friend.as_ref().and_then(Pool::poll_timeout));
            }
            next = earliest(next, *stopped_until);
        }
        next
    }

    /// Sends what may leave on a link; returns the bytes used.
    pub(super) fn send_cells(&mut self, now: Now, conn: ConnId, out: &mut [u8]) -> Result<usize, Broken> {
        let Self { connections, up, .. } = self;
        let Some(open) = connections.get_mut(&conn).and_then(Connection::open) else { return Ok(0) };
        let side = &mut open.account.up;
        let before = side.allowance(up);
        let mut after = before;
        let used = open.link.transmit(now.at, &mut after, out)?;
        let unasked = open.link.take_unasked();
        if side.is_limited(up) {
            let mut classes = before.classes;
            classes.iter_mut().zip(after.classes).for_each(|(n, left)| *n -= left.min(*n));
            side.use_up(before.all - after.all, classes);
            side.owe(up, now.at, unasked, None);
            side.want(up, conn, open.link.ready_classes(), open.link.has_bulk());
        }
        let left = open.link.take_left();
        self.count_relayed(conn);
        for left in left {
            self.cells_left(now, conn, left);
        }
        self.serve_waiting(now);
        self.answer_waiting_pulls(now, conn);
        Ok(used)
    }

    /// Whether a link has something to send that may leave.
    pub(super) fn link_wants_to_send(&mut self, conn: ConnId) -> bool {
        let Self { connections, up, down, .. } = self;
        let Some(open) = connections.get_mut(&conn).and_then(Connection::open) else { return false };
        let Account { up: side, down: credit, .. } = &mut open.account;
        if open.link.has_work(&side.allowance(up)) {
            return true;
        }
        if side.is_limited(up) {
            side.want(up, conn, open.link.ready_classes(), open.link.has_bulk());
        }
        let allowed = credit.allowance(down);
        let may = |class: Class| {
            allowed.all > 0 && allowed.classes.get(class.index()).is_some_and(|cells| *cells > 0)
        };
        open.tunnels.values().any(|t| t.window.would_grant(Duration::ZERO, false) && may(t.flow.class))
    }

    /// Grants credit that is worth a cell; when `tick` is due also what would soon be missed.
    pub(super) fn give_credit(&mut self, now: Now, conn: ConnId, tick: bool) {
        let Self { connections, down, .. } = self;
        let Some(open) = connections.get_mut(&conn).and_then(Connection::open) else { return };
        let OpenLink { tunnels, account, .. } = open;
        let limited = account.down.is_limited(down);
        // When there is not enough for all, the next one is the first next time.
        let first = if limited { account.granted_last } else { 0 };
        let mut credits = Vec::new();
        let mut grant = |(circ, tunnel): (&CircId, &mut Tunnel)| {
            let class = tunnel.flow.class.index();
            let allowed = account.down.allowance(down);
            let most = allowed.all.min(allowed.classes.get(class).copied().unwrap_or(0));
            if let Some(cells) = tunnel.window.grant(now.at, tick, most, limited) {
                credits.push((*circ, cells));
                let mut classes = [0; 3];
                classes.iter_mut().skip(class).take(1).for_each(|n| *n = u32::from(cells));
                account.down.use_up(u32::from(cells), classes);
                account.granted_last = *circ;
            }
            tunnel.window.is_due(now.at)
        };
        let mut due = false;
        for entry in tunnels.range_mut((Bound::Excluded(first), Bound::Unbounded)) {
            due |= grant(entry);
        }
        for entry in tunnels.range_mut(..=first) {
            due |= grant(entry);
        }
        if limited {
            let classes = due_classes(now, tunnels);
            account.down.want(down, conn, classes, false);
        }
        open.credit_at = match (due, open.credit_at) {
            (true, Some(at)) if !tick => Some(at),
            (true, _) => Some(now.at + CREDIT_TICK),
            (false, _) => None,
        };
        for group in credits.chunks(crate::cell::MAX_CREDITS) {
            let cell = SmallCell { circ: 0, command: Command::Credit, front: encode_credits(group) };
            if open.link.send_urgent(cell).is_err() {
                return self.close(now, conn);
            }
        }
    }

    /// A cell came that no rate was charged for when its credit was granted.
    pub(super) fn owe_for_cell(&mut self, now: Now, conn: ConnId, class: Class) {
        let Self { connections, down, .. } = self;
        if let Some(open) = connections.get_mut(&conn).and_then(Connection::open) {
            open.account.down.owe(down, now.at, 1, Some(class));
        }
    }

    /// A tunnel is gone: what was paid for cells that will not come any more is given back.
    pub(super) fn close_account(&mut self, conn: ConnId, tunnel: &Tunnel) {
        let Self { connections, down, .. } = self;
        let Some(open) = connections.get_mut(&conn).and_then(Connection::open) else { return };
        let Account { down: side, late, .. } = &mut open.account;
        side.give_back(down, tunnel.window.paid(), tunnel.flow.class);
        *late = (*late + tunnel.window.granted()).min(MAX_LATE);
    }

    // Work.

    /// Whether a connection may be read: not while its friend makes more work than it may. Asked
    /// before each read; [`Core::poll_timeout`] says when to ask again.
    pub fn may_read(&mut self, now: Now, id: ConnId) -> bool {
        let Some(open) = self.connections.get_mut(&id).and_then(Connection::open) else { return true };
        let Account { work, stopped_until, .. } = &mut open.account;
        let enough = if stopped_until.is_some() { READ_AGAIN } else { 1.0 };
        let may = work.has(now.at, enough);
        *stopped_until = (!may).then(|| work.ready_at(READ_AGAIN));
        may
    }

    /// Answers a pull, or keeps it until there is room in the control queue.
    pub(super) fn answer_pull(
        &mut self,
        now: Now,
        conn: ConnId,
        friend: FriendKey,
        part: Part,
        (log, since): (u64, u64),
    ) {
        let (per_link, in_all) = self.budgets.control;
        let open = |c: &Connection| c.peek().map_or(0, |open| open.link.control_waiting());
        let all: usize = self.connections.values().map(open).sum();
        let here = self.connections.get(&conn).map_or(0, open);
        if here >= per_link || (here > 0 && all >= in_all) {
            let account = self.connections.get_mut(&conn).and_then(Connection::open).map(|o| &mut o.account);
            let waiting = account.and_then(|a| a.pulls.get_mut(usize::from(part.number())));
            waiting.into_iter().for_each(|waiting| *waiting = Some((log, since)));
        } else if let Some(delta) = self.catalogue.pulled(now, friend, part, log, since) {
            self.send_control(now, conn, &Control::Delta(delta));
        }
    }

    fn answer_waiting_pulls(&mut self, now: Now, conn: ConnId) {
        let Some(open) = self.connections.get_mut(&conn).and_then(Connection::open) else { return };
        let Who::Friend(friend) = open.who else { return };
        if open.account.pulls == [None; 2] {
            return;
        }
        let pulls = std::mem::take(&mut open.account.pulls);
        for (part, pull) in Part::BOTH.into_iter().zip(pulls) {
            if let Some(pull) = pull {
                self.answer_pull(now, conn, friend, part, pull);
            }
        }
    }

    // Memory.

    /// Brings the sum of cells to be passed on up to date.
    pub(super) fn count_relayed(&mut self, conn: ConnId) {
        if let Some(open) = self.connections.get_mut(&conn).and_then(Connection::open) {
            let cells = open.link.all_relayed();
            let before = std::mem::replace(&mut open.account.relayed, cells);
            self.relayed = (self.relayed + cells).saturating_sub(before);
        }
    }

    /// A link is gone, and what waited on it.
    pub(super) fn forget_account(&mut self, account: &Account) {
        self.relayed = self.relayed.saturating_sub(account.relayed);
    }

    /// Whether there is room for more tunnels of a friend: near the cap only for those for whom less
    /// waits than for others on the average.
    pub(super) fn may_relay_more(&self, friend: ConnId) -> bool {
        if self.relayed < self.budgets.relayed_cells / 4 * 3 {
            return true;
        }
        let waiting = |c: &Connection| c.peek().map_or(0, |open| open.link.all_relayed());
        let holders = self.connections.values().filter(|c| waiting(c) > 0).count();
        self.connections.get(&friend).is_some_and(|c| waiting(c) * holders < self.relayed)
    }

    /// Above the cap, tunnels end whose cells wait for longest on the links of friends who hold
    /// more than their share: who does not read loses, not who fills.
    pub(super) fn shed_relayed(&mut self, now: Now) {
        let cap = self.budgets.relayed_cells;
        if self.relayed <= cap {
            return;
        }
        while self.relayed > cap - cap / 16 {
            let waiting = |c: &Connection| c.peek().map_or(0, |open| open.link.all_relayed());
            let holders = self.connections.values().filter(|c| waiting(c) > 0).count();
            let over = self.connections.iter().filter(|(_, c)| waiting(c) * holders >= self.relayed);
            let oldest = over.filter_map(|(conn, c)| Some((c.peek()?.link.oldest_relayed()?, *conn))).min();
            let Some(((_, circ), conn)) = oldest else { return };
            self.end_tunnel(now, conn, circ, true);
        }
    }

    /// Adds what the accounts hold.
    pub(super) fn load_of_accounts(&self, load: &mut Load) {
        load.serving = self.serving;
        for open in self.connections.values().filter_map(Connection::peek) {
            load.control += open.link.control_waiting();
            load.urgent += open.link.urgent_waiting();
        }
    }
}

/// Gives a friend's own limit to its link. True if there was something to give.
fn serve_friend(side: &mut Side, now: Now) -> bool {
    let Some((_, cells)) = side.friend.as_mut().and_then(|pool| pool.serve(now.at)) else { return false };
    side.friend_share = Share { cells: side.friend_share.cells + cells, waiting: false };
    true
}

/// Gives out one pool to those who wait and still have use for it: who got how many cells, and whether
/// others waited for them.
fn serve_pool<'a>(
    connections: &'a mut BTreeMap<ConnId, Connection>,
    pools: &mut Pools,
    index: usize,
    now: Now,
    side: impl for<'b> Fn(&'b mut OpenLink) -> (&'b mut Side, ([bool; 3], bool)),
) -> Vec<(ConnId, u32, bool)> {
    let mut got = Vec::new();
    let Some(pool) = pools.0.get_mut(index).and_then(Option::as_mut) else { return got };
    while let Some((conn, cells)) = pool.serve(now.at) {
        let Some(open) = connections.get_mut(&conn).and_then(Connection::open) else {
            pool.give_back(cells);
            continue;
        };
        let (side, (ready, bulk)) = side(open);
        let of_use = match index.checked_sub(1) {
            Some(class) => ready.get(class).copied().unwrap_or(false),
            None => bulk || ready.contains(&true),
        };
        let Some(share) = side.shares.get_mut(index) else { continue };
        share.waiting = false;
        if of_use {
            share.cells += cells;
            got.push((conn, cells, pool.is_contended()));
        } else {
            pool.give_back(cells);
        }
    }
    got
}
