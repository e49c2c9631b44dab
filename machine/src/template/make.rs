//! Making a template: an image is booted once as nobody, warmed up, and captured.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::store::{Making, Template, TemplateError, Templates, remove};
use super::{Key, file, network};
use crate::network::Access;
use crate::seed::Identity;
use crate::vm::{Base, MachineError, MachineName, MachineSpec, Machines, Network, Settings};

/// How long an image may take to boot: minutes, where it is emulated on a host that is busy.
const BOOTED: Duration = Duration::from_secs(20 * 60);

/// What the machine is called while it is made.
const NAME: &str = "golem-template";

/// Boots the image `base` (of `disk_bytes`) in the size that `key` says, as `nobody`, and keeps it as a template.
/// Waits while another one is made. `settings` are those of the machines that will be resumed from it, but for
/// where they are. Given up in the middle, it leaves nothing.
///
/// # Errors
/// When it does not boot, has no agent, can't be captured, or does not fit.
pub async fn make(
    templates: &Templates,
    settings: &Settings,
    key: Key,
    base: Base,
    disk_bytes: u64,
    nobody: &Identity,
    in_use: &BTreeSet<PathBuf>,
) -> Result<Template, TemplateError> {
    let making = templates.begin().await?;
    end_machines(&making, settings).await?;
    for name in [file::DISK, file::RAM, file::STATE] {
        remove(&making.directory().join(name))?;
    }
    let name: MachineName =
        NAME.parse().map_err(|_| TemplateError::Failed(format!("{NAME} is no name")))?;
    let machines = workshop(&making, settings)?;
    let spec = MachineSpec {
        name: name.clone(),
        uuid: nobody.machine_id.uuid(),
        size: key.size,
        // It is nobody's, so nobody pays for it: as fast as it can.
        cpu_millis: key.size.vcpus * 1000,
        disk_bytes,
        speed: None,
        base: vec![base],
        identity: nobody.clone(),
        user_data: None,
        has_agent: true,
        // Cut off from everything: what it would fetch, all clones would have.
        network: Some(Network { addressing: network(), access: Access::None }),
        direct: None,
    };
    let captured = async {
        machines.ensure(&spec).await?;
        let _agent = machines.start_as_template(&name, BOOTED).await?;
        machines.capture(&name, making.directory()).await
    };
    let captured = captured.await;
    end_machines(&making, settings).await?;
    captured.map_err(failed)?;
    making.finish(key, network(), disk_bytes, in_use)
}

/// Ends what an earlier run of this program was making when it was cut off. Waits while one is made.
///
/// # Errors
/// When its machine can't be ended, or its files can't be removed. Call it again.
pub async fn clear_up(templates: &Templates, settings: &Settings) -> Result<(), TemplateError> {
    let making = templates.begin().await?;
    // The rest goes with `making`.
    end_machines(&making, settings).await
}

fn workshop(making: &Making<'_>, settings: &Settings) -> Result<Machines, TemplateError> {
    let settings = Settings { root: making.machines(), ..settings.clone() };
    Machines::open(settings).map_err(failed)
}

async fn end_machines(making: &Making<'_>, settings: &Settings) -> Result<(), TemplateError> {
    let machines = workshop(making, settings)?;
    for name in machines.list().map_err(failed)? {
        machines.destroy(&name).await.map_err(failed)?;
    }
    remove(&making.machines())
}

fn failed(error: MachineError) -> TemplateError {
    TemplateError::Failed(error.to_string())
}
