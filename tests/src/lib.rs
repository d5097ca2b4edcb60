//! Real-kernel tests of AgentGuard.
