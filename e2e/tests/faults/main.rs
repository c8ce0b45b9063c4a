// SPDX-License-Identifier: Apache-2.0
//! Berth's controllers while processes die, connections break and others write: the end is what a naive model says.

mod interposer;
