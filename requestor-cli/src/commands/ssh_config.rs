//! `golem vm ssh-config`

use serde_json::json;

use super::block_on;
use crate::app::App;
use crate::args::SshConfigArgs;
use crate::error::Result;
use crate::ssh::openssh;

pub(super) fn run(app: &App<'_>, args: &SshConfigArgs) -> Result<()> {
    let rentals = match &args.name {
        Some(name) => {
            let rental = app.find(name)?;
            vec![match &rental.ssh {
                Some(_) => rental,
                None => block_on(super::ssh::with_access(app, rental))??,
            }]
        }
        None => app.rentals()?.all()?,
    };
    app.sync_known_hosts()?;
    let known_hosts = app.known_hosts_path()?;
    let blocks: Vec<(String, String)> = rentals
        .iter()
        .filter_map(|rental| {
            let target = App::target(rental, &known_hosts)?;
            let name = rental.name.to_string();
            Some((name.clone(), openssh::config_block(&target, &name)))
        })
        .collect();
    if app.ui.is_json() {
        let hosts: Vec<_> = blocks
            .iter()
            .map(|(name, block)| json!({ "name": name, "ssh_config": block }))
            .collect();
        return app.ui.json(&json!({ "hosts": hosts }));
    }
    let text: Vec<&str> = blocks.iter().map(|(_, block)| block.as_str()).collect();
    app.ui.out(&text.join("\n"))
}
