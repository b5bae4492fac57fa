package ctl

import "github.com/spf13/cobra"

// dryRun is what commands have that change something at once, without a plan of the configuration masters.
type dryRun struct{ on bool }

func (d *dryRun) add(command *cobra.Command) {
	command.Flags().BoolVar(&d.on, "dry-run", false, "show what would be done, and change nothing")
}

// would is the JSON of a dry run.
type would struct {
	Done  bool     `json:"done"` // false
	Steps []string `json:"steps"`
}

// show tells what would be done.
func (d *dryRun) show(s *screen, steps []string) error {
	return s.show(would{Steps: append([]string{}, steps...)}, func() {
		if len(steps) == 0 {
			s.printf("nothing would be done\n")
		}
		for _, step := range steps {
			s.printf("would be done: %s\n", step)
		}
	})
}
