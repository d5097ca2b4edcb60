//! The programs that are attached to each agent's cgroup.

use std::os::fd::AsFd;

use agentguard_common::counter::Hook;
use aya::programs::{
    CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, CgroupSockAddrAttachType, ProgramError,
    links::{CgroupAttachMode, FdLink, LinkError},
};

use super::Error;
use crate::pins::Pins;

/// One of them.
#[derive(Debug)]
enum Program {
    Packets(CgroupSkb, CgroupSkbAttachType),
    Address(CgroupSockAddr),
}

/// All of them, in the order of [`Hook::OF_CGROUPS`].
#[derive(Debug)]
pub struct CgroupPrograms(Vec<(Hook, Program)>);

impl CgroupPrograms {
    /// Takes the pinned ones.
    pub(super) fn open(pins: &Pins) -> Result<Self, Error> {
        let open = |hook: Hook| {
            let path = pins.program(hook.name());
            let packets = |kind| {
                CgroupSkb::from_pin(&path, kind).map(|program| Program::Packets(program, kind))
            };
            let address = |kind| CgroupSockAddr::from_pin(&path, kind).map(Program::Address);
            let program = match hook {
                Hook::CgroupConnect4 => address(CgroupSockAddrAttachType::Connect4),
                Hook::CgroupConnect6 => address(CgroupSockAddrAttachType::Connect6),
                Hook::CgroupSendmsg4 => address(CgroupSockAddrAttachType::UDPSendMsg4),
                Hook::CgroupSendmsg6 => address(CgroupSockAddrAttachType::UDPSendMsg6),
                Hook::CgroupRecvmsg4 => address(CgroupSockAddrAttachType::UDPRecvMsg4),
                Hook::CgroupRecvmsg6 => address(CgroupSockAddrAttachType::UDPRecvMsg6),
                Hook::CgroupGetpeername4 => address(CgroupSockAddrAttachType::GetPeerName4),
                Hook::CgroupGetpeername6 => address(CgroupSockAddrAttachType::GetPeerName6),
                Hook::CgroupIngress => packets(CgroupSkbAttachType::Ingress),
                _ => packets(CgroupSkbAttachType::Egress),
            };
            program
                .map(|program| (hook, program))
                .map_err(|source| Error::program("open", hook.name(), source))
        };
        Hook::OF_CGROUPS
            .into_iter()
            .map(open)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Attaches each to a cgroup and hands its link to `keep`.
    pub fn attach<E>(
        &mut self,
        cgroup: impl AsFd,
        failed: impl Fn(Hook, ProgramError) -> E,
        mut keep: impl FnMut(Hook, FdLink) -> Result<(), E>,
    ) -> Result<(), E> {
        // KERNEL: links take no flags, and always stand beside other programs of the cgroup
        // (kernel/bpf/cgroup.c, `cgroup_bpf_link_attach`).
        let mode = CgroupAttachMode::Single;
        for (hook, program) in &mut self.0 {
            let failed = |source| failed(*hook, source);
            let old = |source: LinkError| failed(std::io::Error::other(source).into());
            let link: FdLink = match program {
                Program::Packets(program, kind) => program
                    .attach(&cgroup, *kind, mode)
                    .and_then(|id| program.take_link(id))
                    .map_err(failed)?
                    .try_into()
                    .map_err(old)?,
                Program::Address(program) => program
                    .attach(&cgroup, mode)
                    .and_then(|id| program.take_link(id))
                    .map_err(failed)?
                    .try_into()
                    .map_err(old)?,
            };
            keep(*hook, link)?;
        }
        Ok(())
    }
}
