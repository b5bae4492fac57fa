// Command smrsim runs simulated schedules of a whole group and checks that no promise is broken. See internal/sim, and
// `make sim`.
package main
