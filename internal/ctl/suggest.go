package ctl

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"lockstep/internal/nearest"
)

// didYouMean stands behind the name in an error message about a name that is not known.
func didYouMean(name string, names []string) string {
	if best := nearest.Name(name, names); best != "" {
		return fmt.Sprintf(" (did you mean %q?)", best)
	}
	return ""
}

// suggestFlag adds to the error about a flag the one that may have been meant.
func suggestFlag(command *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return err
	}
	var names []string
	command.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	command.InheritedFlags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	slices.Sort(names)
	if best := nearest.Name(unknown.GetSpecifiedName(), slices.Compact(names)); best != "" {
		return fmt.Errorf("%w; did you mean --%s?", err, best)
	}
	return err
}
