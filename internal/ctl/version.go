package ctl

import (
	"context"
	"runtime"

	"github.com/spf13/cobra"

	"lockstep/internal/release"
)

func newVersion(s *screen) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version of smrctl",
		Args:  cobra.NoArgs,
		RunE: work(func(context.Context, []string) error {
			v := struct {
				Version  string `json:"version"`
				Revision string `json:"revision"` // of the source, where the build knew it
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{release.Version, release.Revision(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			return s.show(v, func() {
				s.printf("smrctl %s %s (%s, %s)\n", v.Version, v.Revision, v.Go, v.Platform)
			})
		}),
	}
}
