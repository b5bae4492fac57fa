// Command smrctl runs Lockstep clusters on this machine and operates them anywhere. See `smrctl --help`.
package main

import (
	"context"
	"os"

	"lockstep/internal/ctl"
)

func main() {
	os.Exit(ctl.Run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}
