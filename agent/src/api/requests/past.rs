//! `why REQUEST-ID`: what became of one request, as the load balancer that saw it remembers it.

use std::sync::Arc;

use hirsel_model::{NodeId, WallTime};
use hirsel_role::requests::{Remembered, Tried, is_id};

use super::{forgotten, recall};
use crate::api::agent::Agent;
use crate::api::error::{ApiError, Code};
use crate::api::sight::{Sight, rfc3339};
use crate::api::views::why::{Chosen, Link, RejectedNode, Why};

/// Words this long that hold a digit are rather ids than names.
const RATHER_AN_ID_BYTES: usize = 16;

/// What became of the request `thing`; none if it is no id of a request. `otherwise` is what is said where it may be something else.
pub async fn why(agent: &Arc<dyn Agent>, thing: &str, otherwise: ApiError) -> Result<(Why, Vec<String>), ApiError> {
    if otherwise.code != Code::NotFound || !is_id(thing.as_bytes()) {
        return Err(otherwise);
    }
    let (mut found, missing) = recall(agent, thing).await;
    let Some((node, past)) = found.pop() else {
        let rather = thing.len() >= RATHER_AN_ID_BYTES && thing.bytes().any(|byte| byte.is_ascii_digit());
        return Err(if rather { forgotten(thing, &missing) } else { otherwise });
    };
    Ok((told(&agent.sight(), node, past, &found), missing))
}

/// The newest request of an id, and that there were `others` before.
fn told(sight: &Sight, lb: NodeId, past: Remembered, others: &[(NodeId, Remembered)]) -> Why {
    let subject = format!("request/{}", past.id);
    let at = Some(rfc3339(WallTime(past.at_ms)));
    let link = |text: String| Link { event_index: None, text, subject: subject.clone(), at: at.clone() };
    let mut because = vec![link(outcome(sight, lb, &past))];
    let route = past.route.as_ref().map_or("no route takes it".to_owned(), |route| {
        let to = past.origin.as_ref().map(|origin| format!(", which leads to {origin}")).unwrap_or_default();
        format!("route {route}{to}")
    });
    let shown = past.certificate.as_ref().map(|shown| format!(" with the certificate of {shown}")).unwrap_or_default();
    because.push(link(format!("{} from {}{shown}: {route}", past.asked, past.client)));
    because.extend(past.tries.iter().enumerate().map(|(at, tried)| link(try_of(sight, &past, at, tried))));
    if let Some(trace) = &past.trace {
        because.push(link(format!("part of trace {trace}")));
    }
    if let Some((_, before)) = others.last() {
        let at = rfc3339(WallTime(before.at_ms));
        because.push(link(format!("{} more came with this id, the last one before at {at}", others.len())));
    }
    let rejected = past.tries.iter().filter(|tried| tried.outcome != "answered").map(|tried| RejectedNode {
        node: tried.node.map_or_else(|| tried.whom.clone(), |node| sight.name(node)),
        reason: format!("{}: {} after {} ms", tried.whom, words(&tried.outcome), tried.took_ms),
    });
    // Of two tries at once either may have been the one.
    let answered = past.tries.iter().rfind(|tried| tried.outcome == "answered");
    Why {
        since: at.clone(),
        rejected: rejected.collect(),
        chosen: Chosen {
            node: answered.and_then(|tried| tried.node).map(|node| sight.name(node)),
            text: match answered {
                Some(tried) => format!("answered by {}", tried.whom),
                None if matches!(past.cached.as_deref(), Some("hit" | "stale")) => {
                    "answered by what was kept".to_owned()
                }
                None => "nobody answered it".to_owned(),
            },
            generation: None,
        },
        undo: None,
        afterwards: Vec::new(),
        subject: subject.clone(),
        because,
    }
}

fn outcome(sight: &Sight, lb: NodeId, past: &Remembered) -> String {
    let cached = past.cached.as_ref().map(|word| format!(", {}", of_cache(word))).unwrap_or_default();
    let failed = past.failed.as_ref().map(|word| format!(" ({word}: {})", words(word))).unwrap_or_default();
    let first = past.first_byte_ms.map(|ms| format!(", the head of the answer after {ms} ms")).unwrap_or_default();
    let (status, lb) = (past.status, sight.name(lb));
    let answered = match status {
        499 => "the client went away before it was answered".to_owned(),
        _ => format!("answered {status}"),
    };
    format!(
        "{answered}{cached}{failed} by the load balancer of {lb}: {} ms{first}, {} bytes",
        past.took_ms, past.bytes_out
    )
}

fn try_of(sight: &Sight, past: &Remembered, at: usize, tried: &Tried) -> String {
    // Of many tries the first ones and the last are known.
    let is_last = at + 1 == past.tries.len();
    let number = if is_last { past.tried as usize } else { at + 1 };
    let node = tried.node.map(|node| format!(" on {}", sight.name(node))).unwrap_or_default();
    let (whom, outcome) = (&tried.whom, words(&tried.outcome));
    format!("try {number} after {} ms, {whom}{node}: {outcome} after {} ms", tried.after_ms, tried.took_ms)
}

/// What the cache did.
fn of_cache(word: &str) -> &str {
    match word {
        "hit" => "by what was kept",
        "stale" => "by what was kept, though it was stale",
        "revalidated" => "by what was kept, once an instance had said that it is still good",
        "miss" => "for nothing fit was kept",
        "bypass" => "past what is kept",
        other => other,
    }
}

/// What a word of a log means.
fn words(word: &str) -> &str {
    match word {
        "not_connected" => "no connection could be made, or it was closed before anything was written",
        "broken" => "the connection broke while it worked on the request",
        "lost" => "its node was not heard any more, or it ended",
        "timeout" => "no answer in time",
        "not_kept" => "its client wanted only what is kept, and nothing is",
        "garbled" => "what it answered is no HTTP",
        "client_gone" => "the client broke off its body",
        "given_up" => "nobody waited for it any longer",
        "no_instance" => "no instance took it in time",
        "overloaded" => "every instance had as many requests as it may",
        "refused" => "it said that it did not take the request",
        "reset" => "it broke off the request, and not the connection",
        "slow" => "it took longer than a try may",
        "no_route" => "no route takes host and path",
        "bad_request" => "it could not be understood",
        "forbidden" => "its client is not let in",
        "no_certificate" => "its client came without TLS, and is asked for a certificate",
        "misdirected" => {
            "its connection was made for another host, or before other certificates of clients were asked for"
        }
        "unauthorized" => "user or password were missing or wrong",
        "rate_limited" => "too many came before it",
        "too_large" => "its body is too large",
        "cut_short" => "its body broke off",
        "loop" => "its route leads back to a load balancer that it came from",
        "not_understood" => "that node is too old for the route",
        "answer_broken" => "the instance went away while its answer went out",
        "reset_by_client" => "the client went away first",
        "cut_off" => "this side ended the connection",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fixture::sight;

    fn past() -> Remembered {
        let tried = |whom: &str, node, after_ms, took_ms, outcome: &str| Tried {
            whom: whom.into(),
            node: Some(NodeId(node)),
            after_ms,
            took_ms,
            outcome: outcome.into(),
        };
        Remembered {
            id: "3f2a9c1e-7d4b".into(),
            at_ms: 1_795_702_509_042,
            client: "10.0.0.9".into(),
            asked: "GET shop.test/cart".into(),
            route: Some("shop.test/".into()),
            origin: Some("shop/web".into()),
            status: 200,
            first_byte_ms: Some(14),
            took_ms: 15,
            bytes_out: 512,
            tries: vec![tried("shop/web/1", 1, 0, 2, "broken"), tried("shop/web/2", 2, 2, 12, "answered")],
            tried: 2,
            ..Remembered::default()
        }
    }

    #[test]
    fn a_request_is_told_with_its_tries() {
        let why = told(&sight(), NodeId(3), past(), &[]);
        let texts: Vec<&str> = why.because.iter().map(|link| link.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "answered 200 by the load balancer of n3: 15 ms, the head of the answer after 14 ms, 512 bytes",
                "GET shop.test/cart from 10.0.0.9: route shop.test/, which leads to shop/web",
                "try 1 after 0 ms, shop/web/1 on n1: the connection broke while it worked on the request after 2 ms",
                "try 2 after 2 ms, shop/web/2 on n2: answered after 12 ms",
            ]
        );
        assert_eq!((why.chosen.node.as_deref(), why.chosen.text.as_str()), (Some("n2"), "answered by shop/web/2"));
        assert_eq!(why.rejected.len(), 1);
        assert_eq!(why.since.as_deref(), Some("2026-11-26T14:15:09.042Z"));
    }

    #[test]
    fn one_that_failed_says_how_and_one_that_came_again_that_it_did() {
        let failed = Remembered {
            status: 499,
            failed: Some("reset_by_client".into()),
            first_byte_ms: None,
            tries: Vec::new(),
            tried: 0,
            ..past()
        };
        let why = told(&sight(), NodeId(3), failed, &[(NodeId(1), past())]);
        assert!(why.because[0].text.starts_with("the client went away before it was answered (reset_by_client"));
        assert!(why.because.iter().any(|link| link.text.starts_with("1 more came with this id")), "{why:?}");
        assert_eq!(why.chosen.text, "nobody answered it");
    }
}
