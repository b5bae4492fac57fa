package ctl

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// nearest returns the name that somebody may have meant, "" if none is near.
func nearest(name string, names []string) string {
	best, least := "", max(2, len(name)/3)+1
	for _, candidate := range names {
		distance := editDistance(strings.ToLower(name), strings.ToLower(candidate))
		if strings.HasPrefix(candidate, name) && len(name) > 2 {
			distance = min(distance, 1)
		}
		if distance < least {
			best, least = candidate, distance
		}
	}
	return best
}

// didYouMean stands behind the name in an error message about a name that is not known.
func didYouMean(name string, names []string) string {
	if best := nearest(name, names); best != "" {
		return fmt.Sprintf(" (did you mean %q?)", best)
	}
	return ""
}

// editDistance counts the characters to insert, remove or replace to make one text of the other.
func editDistance(from, to string) int {
	source, target := []rune(from), []rune(to)
	row := make([]int, len(target)+1)
	for j := range row {
		row[j] = j
	}
	for i, char := range source {
		diagonal := row[0]
		row[0] = i + 1
		for j, other := range target {
			cost := 1
			if char == other {
				cost = 0
			}
			above := row[j+1]
			row[j+1] = min(above+1, row[j]+1, diagonal+cost)
			diagonal = above
		}
	}
	return row[len(target)]
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
	if best := nearest(unknown.GetSpecifiedName(), slices.Compact(names)); best != "" {
		return fmt.Errorf("%w; did you mean --%s?", err, best)
	}
	return err
}
