package rules

import "time"

func init() {} // want "no init"

func nap() { time.Sleep(time.Second) } // want "nobody may sleep"

// TODO: some day // want "a mark needs a name"

// TODO(kim): replaced when the log can be trimmed beside a reader.

var later = "not implemented" // want "something is unfinished"
