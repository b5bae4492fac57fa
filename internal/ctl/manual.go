package ctl

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Manual is docs/smrctl.md: every command, with its flags, as the commands themselves say.
func Manual() string {
	root := newRoot(&screen{out: io.Discard, notes: io.Discard, format: "table"})
	root.InitDefaultCompletionCmd()
	var b strings.Builder
	b.WriteString("# smrctl\n\nMade from the commands by `make docs`; `smrctl COMMAND --help` shows the same. How they are used: [operations.md](operations.md).\n\n")
	b.WriteString("| exit code | |\n|---|---|\n")
	for _, e := range exitCodes {
		fmt.Fprintf(&b, "| %d | %s |\n", e.code, e.meaning)
	}
	b.WriteString("\n## Flags of every command\n\n" + flagTable(root.PersistentFlags()))
	for _, child := range root.Commands() {
		document(&b, child)
	}
	return b.String()
}

// document describes a command and those below it.
func document(b *strings.Builder, command *cobra.Command) {
	if command.Hidden || command.Name() == "help" || command.Name() == "completion" {
		return
	}
	fmt.Fprintf(b, "\n## %s\n\n%s.\n", command.CommandPath(), command.Short)
	if command.Runnable() && !command.HasSubCommands() {
		fmt.Fprintf(b, "\n```\n%s\n```\n", command.UseLine())
	}
	if long := strings.TrimSpace(command.Long); long != "" && long != command.Short {
		fmt.Fprintf(b, "\n```text\n%s\n```\n", long)
	}
	if command.Example != "" {
		fmt.Fprintf(b, "\n```sh\n%s\n```\n", undent(command.Example))
	}
	if table := flagTable(command.LocalFlags()); table != "" {
		b.WriteString("\n" + table)
	}
	for _, child := range command.Commands() {
		document(b, child)
	}
}

// undent takes the blanks before each line away.
func undent(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "\n")
}

// flagTable lists flags, "" if there are none.
func flagTable(flags *pflag.FlagSet) string {
	var b strings.Builder
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" || f.Name == "version" {
			return
		}
		if b.Len() == 0 {
			b.WriteString("| flag | value | default | |\n|---|---|---|---|\n")
		}
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name += ", `-" + f.Shorthand + "`"
		}
		value, usage := pflag.UnquoteUsage(f)
		standard := f.DefValue
		switch {
		case standard == "[]" || standard == "false" && value == "":
			standard = ""
		case standard != "":
			standard = "`" + standard + "`"
		}
		cells := []string{name, value, standard, usage}
		for i := range cells {
			cells[i] = strings.ReplaceAll(cells[i], "|", `\|`)
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	})
	return b.String()
}
