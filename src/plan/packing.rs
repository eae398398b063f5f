//! Who packs the artifacts: smolfreeze itself, which needs smolvm's guest agent, or smolvm.

use super::{FreezeOptions, OutputSpec};
use crate::error::{Error, Result};
use crate::oci::Compression;
use crate::sink::artifact::{AgentRootfs, Lookup};
use crate::smolvm;

/// Who packs artifacts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PackWith {
    /// smolfreeze; or smolvm, where its guest agent's root filesystem is not found and it can be asked to.
    #[default]
    Auto,
    /// smolfreeze.
    Own,
    /// `smolvm pack create`, which pulls the image from a registry that is there for it alone.
    Smolvm,
}

/// What was decided.
#[derive(Default)]
pub(super) struct Packing {
    /// What goes into artifacts that smolfreeze writes.
    pub(super) agent: Option<AgentRootfs>,
    /// The release of the smolvm that packs.
    pub(super) smolvm_version: Option<String>,
    /// Why smolvm packs though nobody said so.
    pub(super) remark: Option<String>,
}

/// Turns the artifacts among the outputs into what will be packed by smolvm, if it is to be.
pub(super) async fn decide(options: &mut FreezeOptions) -> Result<Packing> {
    let mut packing = Packing::default();
    if options.pack_with == PackWith::Smolvm
        && let Some(agent) = &options.agent_rootfs
    {
        let reason = "smolvm packs with an agent of its own";
        return Err(Error::usage("reading --agent-rootfs", agent.display(), reason).hint("leave out one of the two"));
    }
    if options.pack_with == PackWith::Smolvm {
        options.outputs.iter_mut().for_each(OutputSpec::leave_to_smolvm);
    } else if options.outputs.iter().any(|output| matches!(output, OutputSpec::Artifact(_))) {
        let lookup = Lookup::from_environment(options.agent_rootfs.clone(), Some(&options.machine.smolvm.executable));
        match lookup.find() {
            Ok(agent) => packing.agent = Some(agent),
            // Without smolvm, the agent's own error tells more.
            Err(_) if options.pack_with == PackWith::Auto && !lookup.is_told() && is_there(options).await => {
                options.outputs.iter_mut().for_each(OutputSpec::leave_to_smolvm);
                let words = "smolvm's agent root filesystem was not found (--agent-rootfs names it), so smolvm packs";
                packing.remark = Some(words.to_owned());
            }
            Err(error) => return Err(error),
        }
    }
    if options.outputs.iter().any(OutputSpec::is_packed) {
        let asked = smolvm::version(&options.machine.smolvm).await;
        packing.smolvm_version = asked.map_err(|trouble| {
            let subject = format!("'{}'", options.machine.smolvm.executable.display());
            Error::sink("asking smolvm to pack", subject, trouble).hint("is smolvm installed? --smolvm names it")
        })?;
    }
    Ok(packing)
}

async fn is_there(options: &FreezeOptions) -> bool {
    smolvm::version(&options.machine.smolvm).await.is_ok()
}

/// What smolvm alone pulls over loopback needs no compression: it decodes, and compresses again in its own way.
pub(super) fn compression(options: &FreezeOptions) -> Compression {
    let only_packed = options.outputs.iter().all(OutputSpec::is_packed) && options.level.is_none();
    options.compression.unwrap_or(if only_packed { Compression::None } else { Compression::Zstd })
}
