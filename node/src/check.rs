//! A check of everything stored, as the node runs it: the store finds, and what it cannot mend from
//! its own copies this file has written anew from memory or fetched again.
//!
//! Invariant: at most one step of the store is under way, on a thread of its own; who stops taking
//! progress stops the check. How fast it goes and who is told is decided by the caller.

use crate::exit::{Exit, Failure};
use crate::service::{Command, Context};
use kith_onion::FriendKey;
use kith_store::{Checked, FileType, Finding, Outcome, Scope, Store, Verify};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Findings that are listed; more are counted.
const MAX_LISTED: usize = 1000;

/// A check under way.
pub struct Check {
    store: Arc<Store>,
    commands: mpsc::Sender<Command>,
    verify: Option<Verify>,
    heals: bool,
    /// What came of it so far.
    pub report: Report,
}

/// What a check came to.
#[derive(Debug, Default)]
pub struct Report {
    /// Objects that were checked.
    pub objects: u64,
    /// Objects to check.
    pub object_count: u64,
    /// Bytes that were checked.
    pub bytes: u64,
    /// Bytes to check.
    pub total_bytes: u64,
    /// What was found, at most the first 1,000.
    pub findings: Vec<Finding>,
    /// How much was found in all.
    pub found: u64,
}

/// Whether a fault is still there, as far as is known when it was found.
pub const fn remains(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Fetch | Outcome::Rewrite | Outcome::Lost | Outcome::Left)
}

fn gone() -> Failure {
    Failure::new(Exit::NotRunning, "the node is stopping")
}

impl Check {
    /// Begins a check. Without `heals` nothing is changed.
    pub async fn begin(
        store: Arc<Store>,
        commands: mpsc::Sender<Command>,
        mut scope: Scope,
        heals: bool,
    ) -> Result<Self, Failure> {
        let mut check = Self { store, commands, verify: None, heals, report: Report::default() };
        scope.look_only = !heals;
        scope.friends = check.friends().await?.into_iter().map(|friend| friend.0).collect();
        let store = check.store.clone();
        let verify =
            tokio::task::spawn_blocking(move || store.verify(&scope)).await.map_err(|_| gone())??;
        check.report.total_bytes = verify.total_bytes();
        check.report.object_count = verify.object_count();
        check.verify = Some(verify);
        Ok(check)
    }

    async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Context<'_>) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (sender, receiver) = oneshot::channel();
        let job = Command::Run(Box::new(move |cx| drop(sender.send(job(cx)))));
        self.commands.send(job).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())
    }

    async fn friends(&self) -> Result<Vec<FriendKey>, Failure> {
        self.call(|cx| cx.service.state().friends.keys().chain(&cx.service.state().gone).copied().collect())
            .await
    }

    /// One step of about a MiB. `None`: all files but the view logs were checked.
    pub async fn step(&mut self) -> Result<Option<Checked>, Failure> {
        let Some(mut verify) = self.verify.take() else { return Ok(None) };
        let step = tokio::task::spawn_blocking(move || (verify.step(), verify));
        let (checked, verify) = step.await.map_err(|_| gone())?;
        let Some(mut checked) = checked else { return Ok(None) };
        self.verify = Some(verify);
        self.report.bytes += checked.bytes;
        self.report.objects += u64::from(checked.object.is_some());
        for finding in &mut checked.findings {
            self.heal(finding).await?;
            self.note(finding.clone());
        }
        Ok(Some(checked))
    }

    /// Checks the view logs, and has those that are not whole written anew.
    pub async fn views(&mut self) -> Result<(), Failure> {
        for friend in self.friends().await? {
            let asked = self.call(move |cx| {
                let (sender, answer) = oneshot::channel();
                cx.storage.log(crate::storage::Log::CheckView(friend, sender));
                answer
            });
            // No answer: there is no open log of this friend.
            if let Ok((path, false)) = asked.await?.await {
                let outcome = self.rewrite_view(friend).await?;
                self.note(view_finding(path, outcome));
            }
        }
        Ok(())
    }

    async fn rewrite_view(&self, friend: FriendKey) -> Result<Outcome, Failure> {
        if !self.heals {
            return Ok(Outcome::Left);
        }
        let written = self.call(move |cx| {
            let (sender, answer) = oneshot::channel();
            let records = cx.core.view_snapshot(friend);
            // While entries of it are leaving, their times stand in the log alone.
            if !records.is_empty() {
                cx.storage.log(crate::storage::Log::RewriteView(friend, records, sender));
            }
            answer
        });
        Ok(if matches!(written.await?.await, Ok(Ok(()))) { Outcome::Mended } else { Outcome::Left })
    }

    /// Does about a finding what only the node can.
    async fn heal(&self, finding: &mut Finding) -> Result<(), Failure> {
        match (finding.outcome, finding.object) {
            (Outcome::Fetch, Some(root)) if self.heals => {
                self.call(move |cx| cx.service.damaged(cx.now, cx.core, root)).await
            }
            (Outcome::Rewrite, _) if self.heals => {
                let written = self.call(|cx| cx.service.rewrite_journal()).await?.await;
                let done = matches!(written, Ok(Ok(())));
                finding.outcome = if done { Outcome::Mended } else { Outcome::Left };
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn note(&mut self, finding: Finding) {
        if finding.outcome != Outcome::Foreign {
            tracing::warn!("a check found damage in a {}: {}", finding.file.as_str(), finding.what);
        }
        self.report.found += 1;
        if self.report.findings.len() < MAX_LISTED {
            self.report.findings.push(finding);
        }
    }
}

const fn view_finding(path: PathBuf, outcome: Outcome) -> Finding {
    let what = "records are damaged or missing";
    Finding { file: FileType::ViewLog, path, object: None, what, blocks: 0, outcome }
}
