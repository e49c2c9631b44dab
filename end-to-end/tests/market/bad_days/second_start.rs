//! A second provider, or a second forwarder, is started on a data directory that is in use.

use golem_vm_end_to_end::{Market, Outcome, program};

#[test]
fn the_second_refuses_and_names_the_first() {
    let mut market = Market::with_one_provider();
    let requestor = market.requestor();
    requestor.rent("box");
    let mut session = requestor.session("box", &[]);
    let first = market.provider().service().pid();
    let forwarder = market.provider().forwarder().unwrap();
    let data_dir = market.provider().data_dir();

    let named = format!("(pid {first})");
    market.provider().run(&["start"]).failed(5).says(&[&data_dir.display().to_string(), &named]);
    // On other ports it is the same directory all the same.
    market.provider().run(&["start", "--port", "0"]).failed(5).says(&[&named]);

    let mut second = market.place().command(program("golem-forwarder"));
    second.arg("--data-dir").arg(&data_dir);
    let refused = Outcome::of(&mut second, b"");
    assert_eq!(refused.code, 3, "{refused}");
    for word in [&*data_dir.display().to_string(), &forwarder.to_string()] {
        assert!(refused.stderr.contains(word), "{word} is not in {refused}");
    }

    session.echoes("still");
    assert_eq!(market.provider().service().pid(), first);
    assert_eq!(market.provider().forwarder(), Some(forwarder));
    assert_eq!(requestor.vm("box")["status"], "running");
    market.close();
}
