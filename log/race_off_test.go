//go:build !race

package log_test

const sampling = 1
