// SPDX-License-Identifier: Apache-2.0

mod encode;
mod frames;
mod kinds;
mod random;
mod written;
