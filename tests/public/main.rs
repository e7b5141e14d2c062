//! The public plane over real sockets: a node in this process, on a free port, over a directory of its own.

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod closure;
#[cfg(test)]
mod corruption;
#[cfg(test)]
mod degraded;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod read_through;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod startup;
#[cfg(test)]
mod tools;
#[cfg(test)]
mod vanishing;
