//! The scrub: everything stored is read and checked once in a round, bit by bit and out of the way.
//!
//! A round takes the time that the owner set; its pace follows from how much there is, within
//! bounds. It stands still while videos are fetched, read or streamed and while the owner's own check
//! runs, and it goes on where it was after a restart: the place stands in the journal.

use crate::check::Check;
use crate::content;
use crate::exit::Failure;
use crate::records::{Record, Scrub};
use crate::service::{Command, Context};
use kith_store::{Scope, Store};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Fewest bytes a second: a small store is checked in hours rather than touched all month.
const SLOWEST: u64 = 64 * 1024;
/// Most bytes a second.
const FASTEST: u64 = 8 << 20;
/// After a start other things come first.
const FIRST: Duration = Duration::from_secs(10 * 60);
/// How long it stands still before it looks again whether it may go on.
const PAUSE: Duration = Duration::from_secs(5);
/// The place is written down at most this often.
const SAVE_EVERY: Duration = Duration::from_secs(300);
/// The clock is looked at this often between rounds: it may be set.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// Runs rounds until the node stops.
pub async fn run(store: Arc<Store>, commands: mpsc::Sender<Command>, every: Duration) {
    tokio::time::sleep(FIRST.min(every / 10)).await;
    // It ends when the driver does not answer any more: the node is stopping.
    while round(&store, &commands, every).await.is_some() {}
}

/// Bytes a second for so many bytes in a round.
fn pace(total_bytes: u64, every: Duration) -> u64 {
    (total_bytes / every.as_secs().max(1)).clamp(SLOWEST, FASTEST)
}

/// How long until the round after the one that began at `started_s` is due. One that began later
/// than now began with a clock that was ahead, perhaps by years: the next one is due at once.
fn until_due(started_s: u64, now_s: u64, every: Duration) -> Duration {
    if started_s == 0 || started_s > now_s {
        return Duration::ZERO;
    }
    Duration::from_secs(started_s.saturating_add(every.as_secs()).saturating_sub(now_s))
}

/// A round that begins now. It counts as under way while it began after the last one's end, which a
/// clock that was ahead may have put behind today.
fn begun(last: Scrub, now_s: u64) -> Scrub {
    let ended_s = last.ended_s.min(now_s.saturating_sub(1));
    Scrub { started_s: now_s, ended_s, after: None, found: 0, ..last }
}

async fn call<T: Send + 'static>(
    commands: &mpsc::Sender<Command>,
    job: impl FnOnce(&mut Context<'_>) -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    let job = Command::Run(Box::new(move |cx| drop(sender.send(job(cx)))));
    commands.send(job).await.ok()?;
    receiver.await.ok()
}

/// Waits for the next round's time and does it. `None`: the node is stopping.
async fn round(store: &Arc<Store>, commands: &mpsc::Sender<Command>, every: Duration) -> Option<()> {
    let (mut scrub, now_s) = call(commands, |cx| (cx.service.state().scrub, cx.now.unix_s())).await?;
    if scrub.started_s <= scrub.ended_s {
        let wait = until_due(scrub.started_s, now_s, every);
        if !wait.is_zero() {
            tokio::time::sleep(wait.min(LOOK_EVERY)).await;
            return Some(());
        }
        scrub = begun(scrub, now_s);
        save(commands, scrub).await?;
    }
    // A failure is that of the driver, which is asked again below, or of a thread.
    match go_on(store, commands, every, &mut scrub).await {
        Ok(()) => {
            scrub.ended_s = call(commands, |cx| cx.now.unix_s()).await?.max(scrub.started_s + 1);
            (scrub.found_before, scrub.after) = (scrub.found, None);
            save(commands, scrub).await
        }
        Err(_) => {
            tokio::time::sleep(PAUSE).await;
            call(commands, |_| ()).await
        }
    }
}

async fn go_on(
    store: &Arc<Store>,
    commands: &mpsc::Sender<Command>,
    every: Duration,
    scrub: &mut Scrub,
) -> Result<(), Failure> {
    let scope = Scope { after: scrub.after, ..Scope::default() };
    let mut check = Check::begin(store.clone(), commands.clone(), scope, true).await?;
    let pace = pace(check.report.total_bytes, every);
    let before = scrub.found;
    let mut saved = Instant::now();
    loop {
        while !may_go_on(commands).await {
            tokio::time::sleep(PAUSE.min(every / 10)).await;
        }
        let Some(checked) = check.step().await? else { break };
        scrub.found = before.saturating_add(u32::try_from(check.report.found).unwrap_or(u32::MAX));
        scrub.after = checked.object.or(scrub.after);
        if checked.object.is_some() && saved.elapsed() >= SAVE_EVERY.min(every / 10) {
            saved = Instant::now();
            save(commands, *scrub).await;
        }
        tokio::time::sleep(Duration::from_secs_f64(checked.bytes as f64 / pace as f64)).await;
    }
    check.views().await?;
    scrub.found = before.saturating_add(u32::try_from(check.report.found).unwrap_or(u32::MAX));
    Ok(())
}

/// Whether nothing else wants the disk. A node that is stopping lets it go on, to find that out.
async fn may_go_on(commands: &mpsc::Sender<Command>) -> bool {
    let idle = |cx: &mut Context<'_>| {
        cx.service.fetch_count() == 0 && !cx.service.is_checking() && cx.service.read_only().is_none()
    };
    content::readers() == 0 && call(commands, idle).await.unwrap_or(true)
}

async fn save(commands: &mpsc::Sender<Command>, scrub: Scrub) -> Option<()> {
    let stored = call(commands, move |cx| cx.store(vec![Record::Scrub(scrub)])).await?;
    // A disk that does not take it has its own message.
    let _ = stored.await;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_follows_from_the_size_within_bounds() {
        let month = Duration::from_secs(30 * 86_400);
        assert_eq!(pace(0, month), SLOWEST);
        assert_eq!(pace(20 << 30, month), SLOWEST);
        assert_eq!(pace(10_000_000_000_000, month), 3_858_024);
        assert_eq!(pace(u64::MAX, month), FASTEST);
        assert_eq!(pace(1 << 40, Duration::from_millis(1)), FASTEST);
    }

    /// A node started once with its clock in 2036 wrote that down, and no byte was checked for ten
    /// years after the clock was set.
    #[test]
    fn a_round_from_a_clock_ahead_puts_nothing_off() {
        let month = Duration::from_secs(30 * 86_400);
        let wait = |started_s, now_s| until_due(started_s, now_s, month).as_secs();
        assert_eq!(wait(0, 5), 0, "never");
        assert_eq!(wait(1000, 1000), month.as_secs());
        assert_eq!(wait(1000, 1000 + month.as_secs() - 1), 1);
        assert_eq!(wait(1000, 1000 + month.as_secs()), 0);
        assert_eq!(wait(2000, 1000), 0, "a clock ahead");
        assert_eq!(wait(u64::MAX, 1000), 0);
        let next = begun(Scrub { started_s: 2000, ended_s: 2001, ..Scrub::default() }, 1000);
        assert!(next.started_s > next.ended_s, "a restart goes on with it");
    }
}
