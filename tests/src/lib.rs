//! What only tests need: a simulator that drives the shipped protocol core with virtual time, a
//! faulty network, slow disks and dishonest peers. Scenarios: `tests/tests/sim.rs`.

pub mod sim;
