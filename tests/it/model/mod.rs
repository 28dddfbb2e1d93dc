//! The protocol as a model: every order of everything, within a budget of faults.

mod action;
mod check;
mod gateway;
mod long;
mod mutant;
mod scope;
mod scopes;
mod search;
mod shared;
mod short;
mod step;
mod store;
mod walk;
mod world;
