//! Another machine answers where the rented one should.

use std::process::Command;

use golem_vm_end_to_end::{Engine, Market, Provider, Requestor, eventually, within};
use serde_json::{Value, json};

#[test]
fn an_impostor_is_refused_by_every_client() {
    let mut market = Market::with_one_provider();
    let requestor = market.requestor();
    requestor.rent("box");
    swap_container(market.provider(), &requestor);

    requestor.golem(&["vm", "ssh", "box", "--", "true"]).failed(6).says(&["box", "host key"]);
    requestor
        .golem(&["vm", "ssh", "--builtin", "box", "--", "true"])
        .failed(6)
        .says(&["box", "host key"]);
    let by_hand = requestor.printed_ssh("box", "true");
    assert_eq!(by_hand.code, 255, "{by_hand}");
    assert!(by_hand.stderr.contains("Host key verification failed"), "{by_hand}");
    market.close();
}

#[test]
fn a_create_that_ends_at_an_impostor_is_refused() {
    let mut market = Market::with_one_provider();
    let requestor = market.requestor();
    // Cut off before the login, so that the same command goes on with it.
    let mut golem = requestor.command(&["vm", "create", "box"]);
    let mut golem = golem.stderr(std::process::Stdio::null()).spawn().unwrap();
    within(std::time::Duration::from_secs(30), || (market.instances() == 1).then_some(())).unwrap();
    golem.kill().unwrap();
    golem.wait().unwrap();
    eventually("the VM runs", || {
        requestor.vms().first().is_some_and(|vm| vm["status"] == "running")
    });
    swap_container(market.provider(), &requestor);

    let refused = requestor.golem(&["vm", "create", "box"]);
    assert_eq!(refused.code, 6, "{refused}");
    let refused = requestor.golem(&["vm", "create", "box", "--builtin"]);
    assert_ne!(refused.code, 0, "{refused}");
    market.close();
}

/// Puts another container in the place of the only one, the same but for the host key, behind the
/// provider's back, and waits until it answers at the VM's port.
fn swap_container(provider: &mut Provider, requestor: &Requestor) {
    let engine = Engine::shared();
    let container = provider.containers()[0]["Id"].as_str().unwrap().to_owned();
    let original = engine.inspect(&container);
    let name = original["Name"].as_str().unwrap().trim_start_matches('/').to_owned();
    let files: Vec<_> = ["/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/golem_authorized_keys"]
        .map(|path| (path, archive(&engine, &container, path)))
        .to_vec();
    provider.service().kill();
    engine.json("DELETE", &format!("/containers/{container}?force=1&v=1"), &Value::Null);

    let mut body = original["Config"].clone();
    body["HostConfig"] = original["HostConfig"].clone();
    let network = original["HostConfig"]["NetworkMode"].as_str().unwrap();
    body["NetworkingConfig"] = json!({ "EndpointsConfig": { network: {} } });
    let made = engine.json("POST", &format!("/containers/create?name={name}"), &body);
    let impostor = made["Id"].as_str().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    for (path, tar) in &files {
        let into = root.join(&path[1..]);
        std::fs::create_dir_all(into.parent().unwrap()).unwrap();
        let archive = directory.path().join("file.tar");
        std::fs::write(&archive, tar).unwrap();
        run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(into.parent().unwrap()));
    }
    let key = root.join("etc/ssh/ssh_host_ed25519_key");
    std::fs::remove_file(&key).unwrap();
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
    let archive = directory.path().join("all.tar");
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "-cf"]).arg(&archive).arg("-C").arg(&root);
    tar.args([
        "etc/ssh/ssh_host_ed25519_key",
        "etc/ssh/ssh_host_ed25519_key.pub",
        "etc/ssh/golem_authorized_keys",
    ]);
    run(&mut tar);
    let bytes = std::fs::read(&archive).unwrap();
    let (status, _) = engine.call(
        "PUT",
        &format!("/containers/{impostor}/archive?path=/"),
        "application/x-tar",
        &bytes,
    );
    assert_eq!(status, 200);
    engine.json("POST", &format!("/containers/{impostor}/start"), &Value::Null);
    provider.start();
    let port = provider.status()["vms"][0]["ssh_port"].as_u64().unwrap();
    eventually("the impostor answers", || {
        let keys =
            requestor.shell(&format!("ssh-keyscan -t ed25519 -p {port} 127.0.0.1 2>/dev/null"));
        let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
        let public = public.split_whitespace().nth(1).unwrap();
        keys.stdout.contains(public)
    });
}

fn archive(engine: &Engine, container: &str, path: &str) -> Vec<u8> {
    let (status, bytes) =
        engine.call("GET", &format!("/containers/{container}/archive?path={path}"), "", b"");
    assert_eq!(status, 200, "{path}");
    bytes
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
