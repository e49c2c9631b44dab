use std::collections::BTreeMap;

use golem_vm_protocol::KeyPair;
use golem_vm_protocol::time::Timestamp;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::ports::board::Answer;
use crate::ports::display::{Style, follow_live, lines};
use crate::ports::{Local, NotReached, PortBoard};

const CHECKER: &str = "http://checker.example:9000";
const DOWN: &str = "http://down.example:9000";

fn board() -> PortBoard {
    PortBoard::new(&range(50_800, 50_809, &format!("{CHECKER},{DOWN}")), 7466)
}

fn hold_most(board: &PortBoard) {
    let mut statuses: Vec<_> = (50_800..50_810).map(held).collect();
    statuses[3] = not_held(50_803, BindFailureReason::InUse);
    statuses[4] = not_held(50_804, BindFailureReason::InUse);
    board.set_access(&statuses);
    board.set_holders(BTreeMap::from([(50_803, "nginx (process 42)".to_owned())]));
    board.set_api(Local::Held);
}

fn answer(board: &PortBoard) {
    let mut results: BTreeMap<_, _> =
        board.to_check().into_iter().map(|port| (port, None)).collect();
    results.insert(50_805, Some(NotReached::NoAnswer));
    results.insert(50_806, Some(NotReached::NoAnswer));
    results.insert(50_809, Some(NotReached::Refused));
    let answer = Answer {
        checker: KeyPair::from_secret_bytes([9; 32]).unwrap().id(),
        at: Timestamp::from_unix_seconds(1_000),
        dialled: Some("203.0.113.4".into()),
        results,
        attestations: Vec::new(),
        until: Timestamp::from_unix_seconds(2_000),
    };
    board.answered(CHECKER, answer);
    board.not_answered(DOWN, "can't reach http://down.example:9000: Connection\u{1b}refused");
}

#[test]
fn the_owner_reads_what_is_open_who_says_so_and_what_to_do() {
    let board = board();
    hold_most(&board);
    answer(&board);
    let expected = "\
Ports
  Provider      7466          local ok: listening              external ok: proven
  VM access     50800-50809   local partly: 8 of 10 held       external partly: 5 of 8 proven
  Checked by
    http://checker.example:9000 (9wm1eqn4wddi…): partly: 6 of 9 ports proven at 203.0.113.4
    http://down.example:9000: problem: can't reach http://down.example:9000: Connection\u{fffd}refused
  problem: port 50803 taken by another program, nginx (process 42)
      → stop that program, or choose other ports with --port-range; a port that becomes free is taken at once
  problem: port 50804 taken by another program
      → stop that program, or choose other ports with --port-range; a port that becomes free is taken at once
  problem: ports 50805-50806 can't be reached from outside: no answer
      → a firewall drops the connections: open these TCP ports in this host's firewall and in your hosting provider's, and if this host is behind a router, forward them to it
  problem: port 50809 can't be reached from outside: refused
      → a router (NAT) answers for this host: forward these TCP ports to it; if there is none, a firewall rejects the connections";
    let shown = lines(&board.report(), Style::Plain).join("\n");
    assert_eq!(shown, expected, "\n{shown}");
    let coloured = lines(&board.report(), Style::Terminal).join("\n");
    assert!(coloured.starts_with("🔌 Ports\n") && coloured.contains("\x1b[32m✔\x1b[0m proven"));
}

#[test]
fn before_anything_is_known_nothing_is_called_a_problem() {
    let expected = "\
Ports
  Provider      7466          local not known yet              external being checked
  VM access     50800-50809   local 0 of 10 held               external being checked
  Checked by
    http://checker.example:9000: not asked yet
    http://down.example:9000: not asked yet";
    assert_eq!(lines(&board().report(), Style::Plain).join("\n"), expected);
    assert!(board().report().problems().is_empty());
}

#[test]
fn a_forwarder_that_is_gone_is_a_problem() {
    let board = board();
    hold_most(&board);
    board.forwarder_failed("no golem-forwarder answers", true);
    let report = board.report();
    assert_eq!(report.problems()[0].found, "no golem-forwarder answers");
    assert_eq!(report.held(), 0);
    hold_most(&board);
    assert_eq!(board.report().forwarder_error, None);
}

#[tokio::test]
async fn the_live_display_overwrites_its_waiting_line_only() {
    let board = board();
    hold_most(&board);
    board.asking(CHECKER);
    let mut out = Vec::new();
    let shutdown = CancellationToken::new();
    let tick = Duration::from_secs(3600);
    let (shown, ()) = tokio::join!(follow_live(&board, &shutdown, &mut out, tick), async {
        tokio::task::yield_now().await;
        answer(&board);
    });
    shown.unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(
        text.starts_with("\r\x1b[2K  ⠋ checking 11 ports, 8 of 10 held here, 0 of 2 checkers"),
        "{text}"
    );
    assert!(!text.contains("\x1b[A") && !text.contains("Connection\u{1b}"), "{text}");
    let end = text.rsplit("\r\x1b[2K").next().unwrap();
    assert!(end.starts_with("🔌 Ports\n") && end.ends_with("rejects the connections\n"), "{end}");
    assert_eq!(text.matches("6 of 9 ports proven").count(), 1);
}
