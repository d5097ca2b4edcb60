//! Who acts: an agent's task, or anybody else. No verdicts here, except that a label that can't be
//! believed is told apart from no label.

use agentguard_common::{
    counter::Site,
    event::Reason,
    label::{AGENT_RELEASED, ANY_LEVEL, Agent, BEFORE_ITS_PROGRAM, Label, Tag, TaskState, tag_bit},
    limits::TAG_LEVELS,
};
use aya_ebpf::{cty::c_void, helpers::generated::bpf_get_current_ancestor_cgroup_id};

use crate::{
    count,
    kernel::task,
    maps::{AGENTS, CONTROL, LABELS, PROFILES, TAGS},
};

/// An agent's task, and what its verdicts rest on.
#[derive(Clone, Copy)]
pub struct Subject {
    /// The task's own state. Valid as long as the task, which is at least this program's run.
    pub state: *mut TaskState,
    pub agent: u64,
    pub slot: u32,
    /// Slot of the profile.
    pub profile_slot: u32,
    /// Arena cell of the profile's descriptor, read once for the whole action.
    pub profile: u32,
    /// Id and level of the tagged cgroup.
    pub cgroup: u64,
    pub level: u32,
}

/// The acting task.
pub enum Who {
    /// Not an agent's: nothing of it is judged.
    Nobody,
    Agent(Subject),
    /// An agent's, but it can't be told what it may do. The state is null when there is none.
    Unknown(*mut TaskState, Reason),
}

/// False when the current task is below no tagged cgroup.
#[inline(always)]
fn may_be_tagged() -> bool {
    let Some(control) = CONTROL.get_ptr(0) else {
        // FAIL-CLOSED: then the tags themselves are looked at.
        return true;
    };
    // SAFETY: aligned words that userspace changes atomically.
    let (mut list, tagged) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*control).level_list),
            core::ptr::read_volatile(&raw const (*control).tagged),
        )
    };
    if list == ANY_LEVEL {
        return true;
    }
    let mut i = 0;
    while i < 7 {
        let level = list & 0xff;
        if level == 0 {
            break;
        }
        // SAFETY: no preconditions; 0 for a level below the task's own.
        let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        if cgroup != 0 && tagged & tag_bit(cgroup) != 0 {
            return true;
        }
        list >>= 8;
        i += 1;
    }
    false
}

/// The agent whose tagged cgroup the current task is below, the innermost one if there are several.
#[inline(always)]
fn current_tag() -> Option<Tag> {
    // SAFETY: one aligned word that userspace changes atomically.
    let levels = unsafe { core::ptr::read_volatile(&raw const (*CONTROL.get_ptr(0)?).levels) };
    if levels == 0 {
        return None;
    }
    let mut level = TAG_LEVELS;
    while level > 1 {
        level -= 1;
        if levels & (1 << level) == 0 {
            continue;
        }
        // SAFETY: no preconditions; 0 for a level below the task's own.
        let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        if cgroup == 0 {
            continue;
        }
        // SAFETY: copied at once; an element that is being replaced names the same cgroup.
        if let Some(tag) = unsafe { TAGS.get(cgroup) } {
            return Some(*tag);
        }
    }
    None
}

/// The agent in `slot`, when it is the one with the number `agent`.
#[inline(always)]
pub fn agent(slot: u32, number: u64) -> Option<&'static Agent> {
    let agent = AGENTS.get(slot)?;
    // SAFETY: one aligned word.
    (unsafe { core::ptr::read_volatile(&raw const agent.id) } == number).then_some(agent)
}

/// Arena cell of the descriptor in force for a profile slot, 0 if there is none.
#[inline(always)]
pub fn profile(slot: u32) -> u32 {
    match PROFILES.get_ptr(slot) {
        // SAFETY: one aligned word that userspace changes atomically.
        Some(cell) => unsafe { core::ptr::read_volatile(cell) as u32 },
        None => 0,
    }
}

/// Who the current task is. A task below a tagged cgroup that carries no label yet gets one.
#[inline(always)]
pub fn current() -> Who {
    let current = task::current();
    let mut state = core::ptr::null_mut();
    if task::has_storage() {
        // SAFETY: the current task.
        state = unsafe { LABELS.of(current, false) };
    }
    if !state.is_null() {
        // SAFETY: a map value; only this task writes its label.
        let label = unsafe { (*state).label };
        if label.agent != 0 {
            let Some(agent) = agent(label.slot, label.agent) else {
                // FAIL-CLOSED: the label's agent is gone, but the task is still its.
                count::failure(Site::StaleLabel);
                return Who::Unknown(state, Reason::StaleLabel);
            };
            // SAFETY: one aligned word that userspace changes atomically.
            if unsafe { core::ptr::read_volatile(&raw const agent.state) } != AGENT_RELEASED {
                return subject(state, label, agent);
            }
            // Untagged: the label ends with the task's next action, so that the slot can be given away.
            // SAFETY: as above.
            unsafe { (*state).label.agent = 0 };
        }
    }
    if !may_be_tagged() {
        return Who::Nobody;
    }
    let Some(tag) = current_tag() else {
        return Who::Nobody;
    };
    let label = Label {
        agent: tag.agent,
        slot: tag.slot,
        conditions: if task::runs_what_forked_it() {
            BEFORE_ITS_PROGRAM
        } else {
            0
        },
    };
    if state.is_null() {
        // SAFETY: the current task.
        state = unsafe { LABELS.of(current, true) };
    }
    if state.is_null() {
        // FAIL-CLOSED: an agent's task without room for its label.
        count::failure(Site::LabelCreate);
        return Who::Unknown(state, Reason::NoMemory);
    }
    let Some(agent) = agent(label.slot, label.agent) else {
        // FAIL-CLOSED: a tag without an agent.
        count::failure(Site::StaleLabel);
        return Who::Unknown(state, Reason::StaleLabel);
    };
    // SAFETY: one aligned word that userspace changes atomically.
    if unsafe { core::ptr::read_volatile(&raw const agent.state) } == AGENT_RELEASED {
        // The tag is about to go.
        return Who::Nobody;
    }
    // SAFETY: as above.
    unsafe { (*state).label = label };
    subject(state, label, agent)
}

/// The subject that a label names.
#[inline(always)]
fn subject(state: *mut TaskState, label: Label, agent: &Agent) -> Who {
    // SAFETY: one aligned word that userspace changes atomically.
    let profile_slot = unsafe { core::ptr::read_volatile(&raw const agent.profile) };
    let profile = profile(profile_slot);
    if profile == 0 {
        // FAIL-CLOSED: an agent without a policy.
        count::failure(Site::Tables);
        return Who::Unknown(state, Reason::TablesBroken);
    }
    Who::Agent(Subject {
        state,
        agent: label.agent,
        slot: label.slot,
        profile_slot,
        profile,
        cgroup: agent.cgroup,
        level: agent.level,
    })
}

/// Whether the current task is below the agent's own tagged cgroup.
#[inline(always)]
pub fn is_inside(subject: &Subject) -> bool {
    // SAFETY: no preconditions.
    unsafe { bpf_get_current_ancestor_cgroup_id(subject.level as i32) == subject.cgroup }
}

/// Whether `task` is the same agent's: by its label, or because it is below the agent's cgroup and has done
/// nothing yet for which it would have got one.
///
/// # Safety
/// `task` is a `struct task_struct` the verifier knows.
#[inline(always)]
pub unsafe fn is_same(subject: &Subject, task: *const c_void) -> bool {
    // SAFETY: the caller's.
    let state = unsafe { LABELS.of(task, false) };
    if !state.is_null() {
        // SAFETY: a map value, one aligned word.
        let agent = unsafe { core::ptr::read_volatile(&raw const (*state).label.agent) };
        if agent != 0 {
            return agent == subject.agent;
        }
    }
    is_below(task as u64, subject.level, subject.cgroup)
}

/// Whether the task at this address is below the cgroup with this level and id.
#[inline(always)]
pub fn is_below(task: u64, level: u32, cgroup: u64) -> bool {
    task::ancestor_cgroup(task, level) == Some(cgroup)
}

/// Gives `child` the label and the program of its parent, the current task. False when there is no
/// room for it.
///
/// # Safety
/// `child` is a `struct task_struct` the verifier knows.
#[inline(always)]
pub unsafe fn inherit(subject: &Subject, child: *const c_void) -> bool {
    // SAFETY: the caller's; fresh storage of a task that doesn't run yet.
    unsafe {
        let state = LABELS.of(child, true);
        if state.is_null() {
            count::failure(Site::LabelCreate);
            return false;
        }
        crate::kernel::copy(
            (&raw mut (*state).process).cast(),
            size_of::<agentguard_common::event::Process>() as u32,
            (&raw const (*subject.state).process).cast(),
        );
        (*state).label.conditions = (*subject.state).label.conditions & !BEFORE_ITS_PROGRAM;
        (*state).label.slot = subject.slot;
        (*state).label.agent = subject.agent;
    }
    true
}
