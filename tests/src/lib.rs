//! What only tests need: a simulator that drives the shipped protocol core with virtual time, a
//! faulty network, slow disks and dishonest peers; simulations of the route policy on large friend
//! graphs; swarms of viewers; ways to make flights of any kind; and counts that tell bytes from random ones. Scenarios:
//! `tests/tests`.

pub mod attacks;
pub mod forge;
pub mod graphs;
pub mod paths;
pub mod sim;
pub mod stats;
pub mod swarm;
