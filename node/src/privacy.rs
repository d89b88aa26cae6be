//! The three privacy modes, circuits and who learns what, in plain words. The decisions are the
//! core's; that every sentence here is true of them is this file's business.
//!
//! Invariant: nothing here names a relay. Friends are named only to their own friend, this node's
//! owner.

use crate::exit::{Exit, Failure};
use crate::records::{self, State};
use crate::service::{Context, Service};
use kith_crypto::content::Root;
use kith_onion::budget::Budgets;
use kith_onion::schedule::Weights;
use kith_onion::{
    CircuitReport, Core, Cover, FriendKey, GuardTier, NoOnion, Now, OwnState, Privacy, Route, Trust, Way,
};
use serde::Serialize;
use utoipa::ToSchema;

/// What `config.toml` says of the modes.
pub const CONFIG_COMMENT: &str = "How much speed is given up for privacy.\n\
fast: the quickest way; friends who know a video see that you watch it, a common friend\n\
sees who wants what from whom, and friends can see what you have, also while you watch.\n\
normal: friends' videos come directly, and those friends see it; all others come through\n\
relays, none of which knows both who you are and what you watch.\n\
strict: everything comes through relays or waits, except what friends share with friends\n\
only, which comes only if you name its way; what you watched is given to nobody.";

/// The mode with this name.
pub fn named(name: &str) -> Option<Privacy> {
    [Privacy::Fast, Privacy::Normal, Privacy::Strict].into_iter().find(|mode| mode_name(*mode) == name)
}

/// The name of a mode, in the configuration and the API.
pub const fn mode_name(mode: Privacy) -> &'static str {
    match mode {
        Privacy::Fast => "fast",
        Privacy::Normal => "normal",
        Privacy::Strict => "strict",
    }
}

/// What a mode means, in one sentence.
pub const fn sentence(mode: Privacy) -> &'static str {
    match mode {
        Privacy::Fast => {
            "everything comes the quickest way: friends who know a video see that you watch it, a common friend \
             sees who wants what from whom, and friends can see what you have, also while you watch"
        }
        Privacy::Normal => {
            "a friend's video comes directly, and that friend sees that you watch it; all others come through \
             relays: your first relay can often guess that you watch something, but not what, unless it works \
             together with one near the other end"
        }
        Privacy::Strict => {
            "everything comes through relays or waits for them, except what friends share with friends only: that \
             comes only if you name its way, and that friend sees it; otherwise your friends do not see what you \
             watch, and what you watched is given to nobody; the limits of normal hold here, too"
        }
    }
}

/// What circuits of others may use of a busy link, in percent. Own and friends' traffic keep their
/// proportion in the rest.
pub fn budgets(share: u8) -> Budgets {
    let budgets = Budgets::default();
    let Weights { classes: [own, fof, onion], bulk, quiet_cells } = budgets.weights;
    let share = u16::from(share.clamp(1, 99));
    // Scaled so that nothing is lost by rounding: the two of the rest stand at 5 to 3.
    let (rest, all) = (100 - share, own + fof + onion);
    let classes = [own / 10 * rest, fof / 10 * rest, (own + fof) / 10 * share];
    let bulk = (classes.iter().sum::<u16>() / all).saturating_mul(bulk);
    Budgets { weights: Weights { classes, bulk, quiet_cells }, ..budgets }
}

/// Tells the core how far each friend is trusted with circuits.
pub fn tell_trust(now: Now, core: &mut Core, state: &State) {
    state.friends.keys().for_each(|key| tell_trust_of(now, core, state, *key));
}

/// Tells the core how far a friend is trusted with circuits.
pub fn tell_trust_of(now: Now, core: &mut Core, state: &State, key: FriendKey) {
    let Some(friend) = state.friends.get(&key) else { return };
    let trust = match state.settings_of(key).trust {
        records::Trust::Close => Trust::Close,
        records::Trust::Normal => Trust::Normal,
        records::Trust::Low => Trust::Low,
    };
    core.set_trust(now, key, trust, friend.verified_s.is_some());
}

// Circuits.

/// The name of what circuits lack, in the API.
pub const fn lack_name(lack: NoOnion) -> &'static str {
    match lack {
        NoOnion::TooFewRelays => "too_few_relays",
        NoOnion::NotReady => "not_ready",
        NoOnion::GuardCarries => "guard_carries",
        NoOnion::TooManyRoutes => "too_many_routes",
        NoOnion::NotFound => "not_found",
    }
}

const fn state_name(state: OwnState) -> &'static str {
    match state {
        OwnState::Building => "building",
        OwnState::Ready => "ready",
        OwnState::Used => "used",
    }
}

const fn tier_name(tier: GuardTier) -> &'static str {
    match tier {
        GuardTier::Close => "close",
        GuardTier::Verified => "verified",
        GuardTier::All => "all",
    }
}

/// Circuits as `status` shows them.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CircuitSummary {
    /// Wait for use.
    pub ready: usize,
    /// Are being made.
    pub building: usize,
    /// Carry something, or did.
    pub used: usize,
    /// Of others, through this node.
    pub relayed: usize,
    /// Whom first relays are drawn from: `close`, `verified` or `all`.
    pub tier: Option<&'static str>,
    /// Whether the first relay is there.
    pub guard_online: bool,
    /// Why nothing comes through circuits.
    pub lacks: Option<&'static str>,
    /// Friends marked close.
    pub close_friends: usize,
}

/// An own circuit.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OwnCircuit {
    /// How many relays it has.
    pub relays: u8,
    /// For how long it has stood.
    pub age_s: u64,
    /// `building`, `ready` or `used`.
    pub state: &'static str,
}

/// What cover costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct CoverCost {
    /// `off`, `idle` or `constant`.
    pub mode: &'static str,
    /// Bytes a second and link, where constant.
    pub rate: Option<u64>,
    /// Links that stand.
    pub links: u64,
    /// What is sent on average when nothing else is.
    pub bytes_per_day_and_link: u64,
    /// On all links.
    pub bytes_per_day: u64,
}

/// Circuits as `net circuits` shows them.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Circuits {
    /// As `status` shows them.
    #[serde(flatten)]
    pub summary: CircuitSummary,
    /// Each of the own ones.
    pub own: Vec<OwnCircuit>,
    /// The privacy mode.
    pub privacy: &'static str,
    /// How many relays own circuits have.
    pub relays: u8,
    /// Whether others' circuits may go through this node.
    pub relay: bool,
    /// Percent of a busy link that they may use.
    pub share: u8,
    /// What cover costs.
    pub cover: CoverCost,
}

/// Circuits as `status` shows them.
pub fn circuit_summary(cx: &Context<'_>) -> CircuitSummary {
    summary(&cx.core.circuit_report(cx.now), cx.service.state())
}

fn summary(report: &CircuitReport, state: &State) -> CircuitSummary {
    let count = |state: OwnState| report.own.iter().filter(|own| own.state == state).count();
    let close = state.friends.keys().filter(|key| state.settings_of(**key).trust == records::Trust::Close);
    CircuitSummary {
        ready: count(OwnState::Ready),
        building: count(OwnState::Building),
        used: count(OwnState::Used),
        relayed: report.relayed,
        tier: report.tier.map(tier_name),
        guard_online: report.guard_online,
        lacks: report.lacks.map(lack_name),
        close_friends: close.count(),
    }
}

/// Circuits as `net circuits` shows them.
pub fn circuits(cx: &Context<'_>, share: u8) -> Circuits {
    let report = cx.core.circuit_report(cx.now);
    let state = cx.service.state();
    let settings = cx.core.circuit_settings();
    let own = report.own.iter().map(|own| OwnCircuit {
        relays: own.relays,
        age_s: own.age.as_secs(),
        state: state_name(own.state),
    });
    let links = state.friends.keys().filter(|key| cx.core.is_online(**key)).count() as u64;
    Circuits {
        summary: summary(&report, state),
        own: own.collect(),
        privacy: mode_name(cx.core.privacy()),
        relays: settings.relays,
        relay: settings.relay,
        share,
        cover: cover_cost(settings.cover, links),
    }
}

const DAY_S: u64 = 86_400;
/// Idle cover is one cell after a silence with this mean.
const IDLE_GAP_S: u64 = 30;
const CELL_BYTES: u64 = 4096;

/// What cover costs: what this node sends on average when it sends nothing else, on each link and on
/// all that stand.
fn cover_cost(cover: Cover, links: u64) -> CoverCost {
    let (mode, rate, day) = match cover {
        Cover::Off => ("off", None, 0),
        Cover::Idle => ("idle", None, DAY_S / IDLE_GAP_S * CELL_BYTES),
        // Pads come after half to all of a cell's time: a third more than what is promised.
        Cover::Constant(rate) => ("constant", Some(rate), rate.saturating_mul(DAY_S / 3 * 4)),
    };
    let bytes_per_day = day.saturating_mul(links);
    CoverCost { mode, rate, links, bytes_per_day_and_link: day, bytes_per_day }
}

// Who learns what.

/// Which way an item would come, and who learns what from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    way: &'static str,
    reduced: bool,
    lacks: Option<NoOnion>,
    learns: Learns,
    /// One sentence.
    pub who_learns: String,
}

/// Who learns, for those who say it in another language.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Learns {
    /// `local`, `direct`, `asked` (all friends, directly), `fof`, `fof_asked`, `onion`, or why nobody does yet:
    /// `friends_only` or one of `lacks`.
    pub kind: &'static str,
    /// Friends who learn it.
    pub names: Vec<String>,
    /// Others learn it, too.
    pub others: bool,
    /// Common friends who learn it if it does not come from those.
    pub then: Vec<String>,
}

impl Learns {
    fn of(kind: &'static str) -> Self {
        Self { kind, ..Self::default() }
    }
}

/// Which way an item would come, as the API gives it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WayView {
    /// `local`, `direct`, `fof`, `onion` or `none`.
    pub way: &'static str,
    /// The first relay also carries the item.
    pub reduced: bool,
    /// Why nothing can come through a circuit.
    pub lacks: Option<&'static str>,
    /// One sentence.
    pub who_learns: String,
    /// The same in parts.
    pub learns: Learns,
}

/// The label of a fetch whose first relay also carries the item.
const REDUCED: &str = "reduced: your first relay also carries this item";

impl Told {
    /// It is here already.
    fn local() -> Self {
        let learns = Learns::of("local");
        Self {
            way: "local",
            reduced: false,
            lacks: None,
            learns,
            who_learns: "nobody: it is here already".into(),
        }
    }

    fn onion(reduced: bool) -> Self {
        let learns = Learns { others: reduced, ..Learns::of("onion") };
        Self { way: "onion", reduced, lacks: None, learns, who_learns: onion(reduced) }
    }

    /// As the API gives it.
    pub fn view(&self) -> WayView {
        WayView {
            way: self.way,
            reduced: self.reduced,
            lacks: self.lacks.map(lack_name),
            who_learns: self.who_learns.clone(),
            learns: self.learns.clone(),
        }
    }

    /// Whether it is here.
    pub fn is_local(&self) -> bool {
        self.way == "local"
    }

    /// Whether nothing can come this way now.
    pub const fn is_none(&self) -> bool {
        self.lacks.is_some()
    }
}

/// The friends who may be asked, by how far what they give is away.
struct Asked {
    /// They hold it.
    holders: Vec<String>,
    /// A friend of theirs holds it.
    common: Vec<String>,
}

impl Asked {
    fn of(state: &State, core: &Core, root: &Root) -> Self {
        let sources = core.listing(root).map(|listing| listing.sources).unwrap_or_default();
        let names = |wanted: u8| {
            let those = sources.iter().filter(|(_, links)| *links == wanted);
            those.filter_map(|(key, _)| state.friends.get(key).map(|f| f.name.clone())).collect()
        };
        Self { holders: names(1), common: names(2) }
    }

    fn learn_directly(&self, route: Route, mode: Privacy) -> Learns {
        let then = route == Route::Auto && mode == Privacy::Fast && !self.holders.is_empty();
        Learns {
            kind: if self.holders.is_empty() { "asked" } else { "direct" },
            names: self.holders.clone(),
            others: !others(route, mode).is_empty() && !self.holders.is_empty(),
            then: if then { self.common.clone() } else { Vec::new() },
        }
    }

    fn learn_in_common(&self, route: Route, mode: Privacy) -> Learns {
        Learns {
            kind: if self.common.is_empty() { "fof_asked" } else { "fof" },
            names: self.common.clone(),
            others: !others(route, mode).is_empty() && !self.common.is_empty(),
            then: Vec::new(),
        }
    }

    fn is_nobody(&self) -> bool {
        self.holders.is_empty() && self.common.is_empty()
    }
}

/// `Bo`, `Bo and Cem`, `Bo, Cem and 3 others`.
pub fn list(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [one, two] => format!("{one} and {two}"),
        [one, two, three] => format!("{one}, {two} and {three}"),
        [one, two, rest @ ..] => format!("{one}, {two} and {} others", rest.len()),
    }
}

fn direct(asked: &Asked, route: Route, mode: Privacy) -> String {
    let next = match (route, mode, asked.common.is_empty()) {
        (Route::Auto, Privacy::Fast, false) => format!(
            "; if it does not come that way, {} will know who wants what from whom",
            list(&asked.common)
        ),
        _ => String::new(),
    };
    match asked.holders.as_slice() {
        [] => {
            "nobody here is known to have it: all your friends are asked, and each of them may see that you \
               watch this"
                .into()
        }
        [one] => format!("{one} will see that you watch this{}{next}", others(route, mode)),
        several => format!("{} may each see that you watch this{}{next}", list(several), others(route, mode)),
    }
}

/// In `fast` all friends are asked beside those who are known to have it; when it is wanted directly in another mode,
/// while those are away.
const fn others(route: Route, mode: Privacy) -> &'static str {
    match (route, mode) {
        (Route::Auto | Route::Direct, Privacy::Fast) => {
            ", and so will other friends of yours who know this video"
        }
        (Route::Direct, _) => {
            "; when nobody of them is on line, other friends of yours who know this video will see it, too"
        }
        _ => "",
    }
}

fn fof(asked: &Asked, route: Route, mode: Privacy) -> String {
    let others = match others(route, mode) {
        "" => "",
        _ => "; all your friends are asked whether they have it, and those who know it see that you watch it",
    };
    match asked.common.as_slice() {
        [] => "all your friends are asked to pass it on: whoever does will know that you watch this, what it is \
               and who gives it"
            .into(),
        [one] => format!(
            "{one}, your common friend, will know that you watch this, what it is and who gives it; who gives \
             it, and whoever else asked {one} for it lately, learns that {one} or a friend of {one} wants \
             it{others}"
        ),
        several => format!(
            "{} are your common friends: whoever passes it on will know that you watch this, what it is and who \
             gives it; who gives it, and whoever else asked for it there lately, learns that somebody there wants \
             it{others}",
            list(several)
        ),
    }
}

fn onion(reduced: bool) -> String {
    let label = if reduced { format!("; {REDUCED}") } else { String::new() };
    format!(
        "nobody but your own node knows that it is you who watches this, unless your first relay works together \
         with one near the other end: relays pass on sealed cells, your first relay can often guess that you watch \
         something, and who gives it learns only that somebody wants it{label}"
    )
}

impl Service {
    /// Which way an object would come now, and who learns what from it.
    pub fn way(&self, now: Now, core: &Core, root: &Root, route: Route) -> Told {
        if self.is_here(root) {
            return Told::local();
        }
        let asked = Asked::of(self.state(), core, root);
        let mode = core.privacy();
        let told = |way, learns, who_learns| Told { way, reduced: false, lacks: None, learns, who_learns };
        if self.friends_only(core, root, route).is_some() {
            let who_learns = format!("nobody yet: {FRIENDS_ONLY}");
            let learns = Learns::of("friends_only");
            return Told { lacks: Some(NoOnion::NotFound), ..told("none", learns, who_learns) };
        }
        match core.way_of(now, root, route) {
            Way::Direct if asked.is_nobody() || !asked.holders.is_empty() => {
                told("direct", asked.learn_directly(route, mode), direct(&asked, route, mode))
            }
            Way::Direct | Way::Fof => {
                told("fof", asked.learn_in_common(route, mode), fof(&asked, route, mode))
            }
            Way::Onion { reduced } => Told::onion(reduced),
            Way::No(why) => Told {
                way: "none",
                reduced: false,
                lacks: Some(why),
                learns: Learns::of(lack_name(why)),
                who_learns: format!("nobody yet: {}", lack_text(why, core.circuit_settings().relays)),
            },
        }
    }

    /// The same once a source was found so many friend links away.
    pub fn way_found(&self, now: Now, core: &Core, root: &Root, route: Route, links: u8) -> Told {
        // The circuit in use may be the only one, and the next may begin elsewhere.
        match core.comes_reduced(root).filter(|_| links > 2) {
            Some(reduced) => Told::onion(reduced),
            None => self.way(now, core, root, route),
        }
    }

    /// Why nothing comes through a circuit, and what to do about it.
    pub fn no_onion(&self, core: &Core, root: &Root, route: Route, mode: Privacy, why: NoOnion) -> Failure {
        let asked = Asked::of(self.state(), core, root);
        let relays = core.circuit_settings().relays;
        let what = lack_text(why, relays);
        Failure::new(Exit::Unreachable, format!("{what}: {}", advice(&asked, route, mode, why, relays)))
    }

    /// Why an object cannot come through a circuit, whatever is waited for, by a route that is nothing
    /// else.
    pub fn friends_only(&self, core: &Core, root: &Root, route: Route) -> Option<Failure> {
        let circuit_only = route == Route::Onion || route == Route::Auto && core.privacy() == Privacy::Strict;
        let alone = circuit_only && core.stays_with_friends(root);
        alone.then(|| {
            let holders = or(&Asked::of(self.state(), core, root).holders);
            let advice = format!("{holders} will see that you watch it if you say --route direct");
            Failure::new(Exit::Unreachable, format!("{FRIENDS_ONLY}: {advice}"))
        })
    }
}

const FRIENDS_ONLY: &str = "this is shared with friends only, which never comes through relays";

/// `Bo, Cem or Dia`
fn or(names: &[String]) -> String {
    list(names).replace(" and ", " or ")
}

/// What to do when nothing comes through a circuit. Strict names no way by which somebody would learn
/// who asks.
fn advice(asked: &Asked, route: Route, mode: Privacy, why: NoOnion, relays: u8) -> String {
    let wait = lack_advice(why, relays);
    match (route, mode) {
        (Route::Auto, Privacy::Normal) if !asked.common.is_empty() => {
            let way =
                format!("by way of your common friend {}, who will know: --route fof", or(&asked.common));
            match why {
                NoOnion::TooFewRelays => format!("it can come only {way}"),
                _ => format!("{wait}; or take it {way}"),
            }
        }
        (Route::Auto, Privacy::Strict) if why != NoOnion::GuardCarries => {
            format!("{wait}; strict takes no other way")
        }
        _ => wait,
    }
}

fn lack_text(why: NoOnion, relays: u8) -> String {
    match why {
        NoOnion::TooFewRelays => {
            format!("too few friends of your friends relay to make a circuit of {relays} relays")
        }
        NoOnion::NotReady => "no circuit is ready for it yet".into(),
        NoOnion::GuardCarries => {
            "your first relay also carries this video, which strict does not allow".into()
        }
        NoOnion::TooManyRoutes => {
            "this video was asked for over four routes within 30 days, and one more would tell too much"
                .into()
        }
        NoOnion::NotFound => "nobody near the ends of your circuits gives this video".into(),
    }
}

fn lack_advice(why: NoOnion, relays: u8) -> String {
    match why {
        NoOnion::TooFewRelays => {
            let fewer = if relays > 3 { ", or fewer relays (circuit.relays)" } else { "" };
            format!(
                "it takes more friends who have friends of their own{fewer}, and some minutes after a start; see \
                 `kith net circuits`"
            )
        }
        NoOnion::NotReady => "wait a few minutes, and see `kith net circuits`".into(),
        NoOnion::GuardCarries => {
            "wait some minutes for a circuit that begins elsewhere, mark more friends close (kith friend trust \
             NAME close), or use normal"
                .into()
        }
        NoOnion::TooManyRoutes => {
            "try again when relays of before are on line again, or in some days, at most 30".into()
        }
        NoOnion::NotFound => "try again when more people are on line".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_keep_the_proportion_of_the_rest() {
        for share in 1..=90_u16 {
            let Weights { classes: [own, fof, onion], bulk, .. } = budgets(share as u8).weights;
            let all = f64::from(own + fof + onion);
            let is = |weight: u16, percent: f64| (f64::from(weight) / all * 100.0 - percent).abs() < 1e-9;
            let rest = f64::from(100 - share);
            assert!(is(onion, f64::from(share)) && is(own, rest * 0.625) && is(fof, rest * 0.375), "{share}");
            assert!(is(bulk, 20.0), "{share}: {bulk}");
        }
        let Weights { classes, .. } = budgets(20).weights;
        assert_eq!(classes, [50, 30, 20].map(|weight| weight * 8), "the core's default");
    }

    #[test]
    fn cover_says_what_it_costs() {
        let cost = |cover, links| cover_cost(cover, links).bytes_per_day;
        assert_eq!(cost(Cover::Off, 9), 0);
        assert_eq!(cost(Cover::Idle, 1), 11_796_480);
        assert_eq!(cost(Cover::Constant(16_000), 3), 3 * 16_000 * 86_400 * 4 / 3);
        assert_eq!(cost(Cover::Constant(u64::MAX), 3), u64::MAX, "no overflow");
    }

    #[test]
    fn advice_names_the_ways_that_there_are() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let asked = |common: &[&str]| Asked { holders: Vec::new(), common: names(common) };
        let (auto, normal, strict) = (Route::Auto, Privacy::Normal, Privacy::Strict);
        let (far, nobody) = (asked(&["Bo", "Cem"]), asked(&[]));
        let text = advice(&far, auto, normal, NoOnion::TooFewRelays, 3);
        assert!(text.starts_with("it can come only by way of your common friend Bo or Cem"), "{text}");
        let all = [NoOnion::TooFewRelays, NoOnion::NotReady, NoOnion::NotFound, NoOnion::TooManyRoutes];
        for why in all {
            let text = advice(&far, auto, normal, why, 3);
            assert!(text.ends_with("who will know: --route fof"), "{text}");
            assert_eq!(text.contains("only"), why == NoOnion::TooFewRelays, "later it may: {text}");
            let text = advice(&far, auto, strict, why, 3);
            assert!(text.ends_with("; strict takes no other way") && !text.contains("--route"), "{text}");
            assert!(!advice(&nobody, auto, normal, why, 3).contains("strict"));
            // A named route was chosen with what it means.
            assert!(!advice(&far, Route::Onion, normal, why, 3).contains("--route"));
        }
        assert!(lack_advice(NoOnion::TooFewRelays, 4).contains("circuit.relays"));
    }

    #[test]
    fn every_sentence_is_one_line_and_names_whom_it_is_about() {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let asked =
            |holders: &[&str], common: &[&str]| Asked { holders: owned(holders), common: owned(common) };
        let (auto, fast) = (Route::Auto, Privacy::Fast);
        assert_eq!(direct(&asked(&["Bo"], &[]), auto, Privacy::Normal), "Bo will see that you watch this");
        let text = "Bo will see that you watch this, and so will other friends of yours who know this video";
        assert_eq!(direct(&asked(&["Bo"], &[]), auto, fast), text);
        assert!(direct(&asked(&["Bo", "Cem"], &[]), auto, fast).starts_with("Bo and Cem may each see"));
        assert!(direct(&asked(&["Bo"], &["Dia"]), auto, fast).contains("Dia will know who wants what"));
        assert!(!direct(&asked(&["Bo"], &["Dia"]), Route::Direct, fast).contains("Dia"));
        assert!(!direct(&asked(&["Bo"], &["Dia"]), auto, Privacy::Normal).contains("Dia"));
        assert!(direct(&asked(&[], &[]), auto, fast).contains("all your friends"));
        assert!(fof(&asked(&[], &["Bo"]), Route::Fof, fast).starts_with("Bo, your common friend, will know"));
        assert!(!fof(&asked(&[], &["Bo"]), Route::Fof, fast).contains("all your friends"));
        assert!(fof(&asked(&[], &["Bo"]), auto, fast).contains("all your friends are asked"));
        assert!(onion(true).ends_with("; reduced: your first relay also carries this item"));
        assert!(!onion(false).contains("reduced"));
        assert_eq!(list(&owned(&["A", "B", "C", "D", "E"])), "A, B and 3 others");
        for mode in [Privacy::Fast, Privacy::Normal, Privacy::Strict] {
            assert_eq!(named(mode_name(mode)), Some(mode));
            assert!(!sentence(mode).contains(['\n', '.']), "{}", sentence(mode));
        }
    }
}
