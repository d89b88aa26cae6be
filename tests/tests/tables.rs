//! What the shipped route policy gives away to an adversary who knows every friendship, beside
//! policies that were rejected and must give away far more. `--example tables` prints the whole.

use kith_tests::graphs::{Graph, Kind};
use kith_tests::paths::{
    Adversary, Capture, Estimate, Policy, Repeated, capture, cores, reach, repeated, seeded,
};

const SEED: u64 = 7;
const ORIGINS: usize = 80;

fn friends(kind: Kind, degree: usize) -> Graph {
    Graph::new(kind, 1000, degree, &mut seeded(SEED, 0))
}

/// Circles of friends between loose and tight: the ranking holds in both.
fn graphs() -> [Graph; 2] {
    [friends(Kind::Com, 15), friends(Kind::Ws, 14)]
}

fn run(graph: &Graph, share: f64, policy: Policy) -> Repeated {
    repeated(graph, share, policy, ORIGINS, SEED)
}

#[test]
fn many_circuits_name_no_more_origins_than_have_a_hostile_guard() {
    for graph in graphs() {
        for share in [0.01, 0.05, 0.10] {
            for policy in [Policy::OneContext, Policy::ManyContexts] {
                let shipped = run(&graph, share, policy);
                let named = shipped.named[3].mean;
                assert!(named >= shipped.hostile_guard.mean, "a hostile guard knows its friend");
                assert!(named <= shipped.hostile_guard.mean + 0.03, "{policy:?} at {share}: {named}");
                assert_eq!(shipped.refused, 0.0);
            }
        }
    }
}

#[test]
fn the_rejected_policies_name_far_more() {
    for graph in graphs() {
        for share in [0.01, 0.10] {
            let [shipped, two_guards, fresh] = [Policy::ManyContexts, Policy::TwoGuards, Policy::Fresh]
                .map(|policy| run(&graph, share, policy));
            let named = [&shipped, &two_guards, &fresh].map(|r| r.named[3].mean);
            assert!(named[1] >= named[0] + 0.3 && named[2] >= 0.95, "at {share}: {named:?}");
            let sets = [&shipped, &two_guards, &fresh].map(|r| r.bits[3].mean.exp2());
            assert!(sets[0] >= 4.0 * sets[1] && sets[2] < 1.2, "at {share}: {sets:?}");
        }
    }
}

#[test]
fn more_circuits_of_one_context_teach_nothing() {
    for graph in graphs() {
        let one = run(&graph, 0.05, Policy::OneContext);
        assert_eq!(one.bits[0].mean, one.bits[3].mean);
        let many = run(&graph, 0.05, Policy::ManyContexts);
        assert!(many.bits[3].mean <= one.bits[3].mean, "three third hops say more than one");
        assert!(many.bits[2].mean - many.bits[3].mean < 0.2, "and that is all there is to learn");
    }
}

#[test]
fn failures_cost_four_routes_and_no_more() {
    for graph in graphs() {
        let [steady, failing] = [Policy::OneContext, Policy::Failures].map(|p| run(&graph, 0.05, p));
        assert!(failing.refused > 0.1, "the cap was never reached: {}", failing.refused);
        assert!(failing.named[3].mean <= failing.hostile_guard.mean + 0.08, "{:?}", failing.named[3]);
        // It does cost something, or the adversary would not be looking.
        assert!(failing.bits[3].mean < steady.bits[3].mean - 1.0);
    }
}

#[test]
fn the_adversary_reasons_rightly() {
    // An adversary that is mistaken about the policy would make every policy look good.
    for graph in graphs() {
        for policy in [Policy::OneContext, Policy::ManyContexts, Policy::TwoGuards, Policy::Fresh] {
            let seen = run(&graph, 0.05, policy);
            for bias in seen.bias {
                assert!(bias.mean.abs() < 2.0 * bias.half + 0.01, "{policy:?}: {bias:?}");
            }
        }
    }
}

#[test]
fn routes_are_captured_as_often_as_the_threat_model_says() {
    let graph = friends(Kind::Com, 15);
    let at = |share, adversary| capture(&graph, graph.len(), share, adversary, 3000, SEED);
    let near = |is: Estimate, of: f64| {
        assert!((is.mean - of).abs() < 1.5 * is.half + 0.005, "{is:?} instead of {of}");
    };
    for share in [0.02, 0.05, 0.10] {
        let Capture { guard, end, both, end_behind_honest_guard } = at(share, Adversary::Honest);
        near(guard, share);
        near(end, share);
        near(both, share * share);
        near(end_behind_honest_guard, share);
        // Control: lists that show hostile nodes only do take over what is behind them, and not more.
        let captured = at(share, Adversary::Captures);
        near(captured.guard, share);
        near(captured.end, 1.0 - (1.0_f64 - share).powi(3));
        assert_eq!(captured.both.mean, captured.guard.mean);
        // Shining draws more, up to what the weights allow.
        let shining = at(share, Adversary::CapturesAndShines);
        assert!(shining.end.mean > captured.end.mean);
        assert!(shining.guard.mean < share * 287.0 / 192.0 + 0.02);
    }
}

#[test]
fn spreading_reaches_more_and_whole_nodes_do_what_the_table_says() {
    for graph in graphs() {
        let [all, half] = [1.0, 0.5].map(|online| reach(&graph, online, 200, SEED));
        let [alone, one, two] = all.once.map(|e| e.mean);
        assert!(alone < one && one < two && two <= all.all.mean, "{all:?}");
        assert!(all.all.mean > 0.9 && half.all.mean < all.all.mean, "{all:?} {half:?}");
        // Three links to the third relay, and at most two by spreading and two along pointers.
        assert!(all.links.mean > 4.0 && all.links.mean < 7.0, "{all:?}");
    }
    let few = Graph::new(Kind::Ws, 40, 6, &mut seeded(SEED, 0));
    let (table, served) = (reach(&few, 1.0, 200, SEED), cores(&few, 8, SEED));
    assert!((table.all.mean - served.whole.mean).abs() < served.whole.half.max(0.3), "{table:?} {served:?}");
    assert!(served.whole.mean > 0.5 && served.spread.mean > 1.0, "{served:?}");
}
