package ctl

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"lockstep/internal/admin"
)

// Exit codes. Scripts rely upon them: add, but change none.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2
	exitFound    = 3
	exitNobody   = 4
	exitOvertook = 5
)

// exitCodes is the table that `smrctl help exit-codes` and docs/smrctl.md show.
var exitCodes = []struct {
	code    int
	meaning string
}{
	{exitDone, "done, and nothing was found that somebody should look at"},
	{exitFailed, "failed or refused: the standard error says what was attempted, what happened and what to do"},
	{exitUsage, "wrong usage: the arguments make no sense; nothing was attempted"},
	{exitFound, "the work was done and found something: a difference (digest, log compare, config diff), an error or warning (doctor)"},
	{exitNobody, "no answer: no configuration master answers, or --timeout passed; what was asked for may have been done"},
	{exitOvertook, "overtaken: somebody else changed it meanwhile; nothing was changed, look again"},
}

// exitCode tells what an error means to a script.
func exitCode(err error) int {
	var failure *failed
	var found *finding
	switch {
	case !errors.As(err, &failure):
		return exitUsage
	case errors.As(err, &found):
		return exitFound
	case errors.Is(err, admin.ErrOvertaken):
		return exitOvertook
	case errors.Is(err, admin.ErrNoAnswer), errors.Is(err, context.DeadlineExceeded):
		return exitNobody
	}
	return exitFailed
}

// finding is the error of a command that did its work and found something.
type finding struct{ text string }

func (f *finding) Error() string { return f.text }

func found(format string, args ...any) error { return &finding{fmt.Sprintf(format, args...)} }

// quiet says in its own words that nobody answers.
type quiet struct{ text string }

func (q *quiet) Error() string { return q.text }
func (q *quiet) Unwrap() error { return admin.ErrNoAnswer }

func exitCodeText() string {
	var text strings.Builder
	for _, e := range exitCodes {
		fmt.Fprintf(&text, "  %d  %s\n", e.code, e.meaning)
	}
	return text.String()
}
