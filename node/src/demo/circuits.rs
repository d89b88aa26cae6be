//! The part of the demonstration in which nobody on the way is told who watches.

use super::*;

/// How long circuits may take to stand at the shortened pace.
const CIRCUITS_WAIT: Duration = Duration::from_secs(20);
/// Traffic at a node that is no more than this is not the video: it takes some cells to build circuits.
const NOISE: u64 = SAMPLE.len() as u64 / 2;

/// Who watches: two links from Ana, not Cem, with as many friends as possible who are not Ana's, so
/// that the first relay is not one who told of the video. With these friends.
fn watcher(friendships: &[(usize, usize)], count: usize) -> Option<(usize, Vec<usize>)> {
    let anas = friends_of(friendships, 0);
    let far = (1..count).filter(|n| *n != 2 && !anas.contains(n));
    let near = |n: &usize| friends_of(friendships, *n).iter().any(|friend| anas.contains(friend));
    let guards = |n: usize| -> Vec<usize> {
        friends_of(friendships, n).into_iter().filter(|friend| !anas.contains(friend)).collect()
    };
    far.filter(near).map(|n| (n, guards(n))).rev().max_by_key(|(_, guards)| guards.len())
}

/// Marks guards before any circuit is built, and says who is going to watch: the number of a node.
pub(super) async fn prepare(
    story: &mut Story,
    nodes: &[Node],
    friendships: &[(usize, usize)],
) -> Result<usize, Failure> {
    let (number, guards) =
        watcher(friendships, nodes.len()).ok_or_else(|| failed("nobody stands two links from Ana"))?;
    let watcher = node(nodes, number)?;
    let mut names = Vec::new();
    for guard in guards {
        let guard = node(nodes, guard)?;
        let path = format!("/api/friends/{}/trust", guard.name);
        watcher.client.call(Method::POST, &path, Some(json!({"trust": "close"}))).await?;
        names.push(guard.name);
    }
    let (name, names) = (watcher.name, names.join(" and "));
    story
        .step(&format!("{name} marked {names} close: the first relay of all circuits is drawn from these"))?;
    story.detail(
        "circuits are built from now on, slowly and for nothing in particular, so that they tell nothing",
    )?;
    Ok(number)
}

/// Waits for a circuit, watches through it, and says what each node saw.
pub(super) async fn tell(story: &mut Story, nodes: &[Node], watcher: usize, id: &str) -> Result<(), Failure> {
    let watcher = node(nodes, watcher)?;
    let name = watcher.name;
    wait_for(watcher, id).await?;
    let relays = ready(story, watcher).await?;
    story
        .step(&format!("{name}, two links from Ana, has a circuit of {relays} relays that waits for use"))?;

    let before = traffic(nodes).await?;
    let played = stream(watcher, id, "onion").await?;
    let after = traffic(nodes).await?;
    story.step(&format!(
        "{name} played it through {relays} relays: first bytes after {} ms, all of it after {} ms",
        played.first.as_millis(),
        played.whole.as_millis()
    ))?;
    story.detail("checked block by block, and equal to Ana's file to the byte")?;
    story.detail(&format!("before it began the node said: {}", played.who_learns))?;

    story.step("what each node on the way saw of that, by its own counters:")?;
    let mut on_the_way = 0;
    for (before, after) in before.iter().zip(&after) {
        let (was, line) = saw(before, after, name);
        on_the_way += u64::from(was);
        story.detail(&line)?;
    }
    // The last relay may be the one that gives it.
    if on_the_way < relays {
        let what = format!("only {on_the_way} nodes had it in hand, fewer than the circuit has relays");
        return Err(failed(what));
    }
    story.detail(
        "each of these knows its two neighbours on the way. The first is not told that it is the first, and can",
    )?;
    story.detail("often guess it, but not what is watched;")?;
    story.detail(
        "the last knows that somebody wants this video, not who. The first and one near the other end",
    )?;
    story.detail(
        "could find out together: that is why the first is somebody close, and stays the same for months",
    )
}

/// Waits for a circuit and tells how it goes. Returns its relays.
async fn ready(story: &Story, watcher: &Node) -> Result<u64, Failure> {
    let until = Instant::now() + CIRCUITS_WAIT;
    let mut told = (0, 0);
    loop {
        let report = watcher.client.call(Method::GET, "/api/circuits", None).await?;
        let own = report.get("own").and_then(Value::as_array).cloned().unwrap_or_default();
        let ready = own.iter().find(|circuit| circuit["state"] == "ready");
        if let Some(relays) = ready.and_then(|circuit| circuit["relays"].as_u64()) {
            return Ok(relays);
        }
        let most = own.iter().filter_map(|circuit| circuit["relays"].as_u64()).max().unwrap_or(0);
        if told != (own.len(), most) {
            told = (own.len(), most);
            story.detail(&format!(
                "{:.1} s: {} being built, the longest has {most} of 3 relays",
                story.started.elapsed().as_secs_f64(),
                own.len()
            ))?;
        }
        if Instant::now() > until {
            let lacks = report.get("lacks").and_then(Value::as_str).unwrap_or("nothing");
            let what = format!(
                "{} has no circuit after {} s (lacks: {lacks})",
                watcher.name,
                CIRCUITS_WAIT.as_secs()
            );
            return Err(Failure::new(Exit::TimedOut, what));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What a node could see of what happened between two counts, and whether it was on the way.
fn saw(before: &Seen, after: &Seen, watcher: &str) -> (bool, String) {
    let more = |count: fn(&Seen) -> u64| count(after).saturating_sub(count(before));
    let (sent, received, relayed) = (more(Seen::sent), more(Seen::received), more(Seen::relayed));
    let name = after.name;
    let is_watcher = name == watcher;
    let did = if is_watcher {
        format!("received {}; knows neither who gave it nor who passed it on", human_bytes(received))
    } else if relayed > NOISE {
        format!(
            "passed on {} of sealed cells; is told neither who asked nor who gives it",
            human_bytes(relayed)
        )
    } else if sent > NOISE {
        format!("sent {}; knows that somebody wanted it, not who", human_bytes(sent))
    } else {
        "carried nothing of it".to_owned()
    };
    (!is_watcher && relayed.max(sent) > NOISE, format!("{name:4} {did}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watcher_has_first_relays_that_did_not_tell_of_the_video() {
        assert_eq!(watcher(&friendships(7), 7), Some((5, vec![4, 2])));
        let (number, guards) = watcher(&friendships(8), 8).unwrap();
        assert!(number != 2 && !guards.is_empty());
    }
}
