package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"lockstep/internal/backup"
	"lockstep/internal/checkpoint"
	"lockstep/internal/kv"
	"lockstep/internal/rdb"
	"lockstep/internal/release"
	"lockstep/smr"
)

func newExport(s *screen) *cobra.Command {
	var at where
	var from archived
	var form, output, image, node string
	var chosen uint64
	command := &cobra.Command{
		Use:   "export [GROUP]",
		Short: "Write the whole keyspace as an RDB file, as JSON or as commands",
		Long: `Writes everything that a group holds at one LSN to a file:

  rdb   a snapshot file (version 10) that redis-server 7.0 and newer load
  json  an object on each line: {"db", "key", "type", "expire_ms", "value"}
  resp  the commands that make it, for redis-cli --pipe: SELECT, FUNCTION LOAD, RESTORE

The source is a living group (a slave takes an image, and sends it), a backup (--archive, and --backup LSN), or the
directory of an image (--image). The data set must fit into the memory of this machine. Users and settings are not exported.`,
		Args: cobra.MaximumNArgs(1),
		RunE: work(func(ctx context.Context, args []string) error {
			write, ok := exporters[form]
			if !ok {
				return usage("--format %q: use rdb, json or resp", form)
			}
			if output == "" {
				return usage("--file: name the file to write, or - for the standard output")
			}
			if from.path != "" && image != "" || chosen != 0 && from.path == "" {
				return usage("name one source: a group, --image, or --archive with or without --backup")
			}
			scratch, err := os.MkdirTemp("", "smrctl-export-")
			if err != nil {
				return fmt.Errorf("make a directory for the image (TMPDIR says where): %w", err)
			}
			defer os.RemoveAll(scratch)
			dir := image
			switch {
			case from.path != "":
				dir, err = backupImage(ctx, s, &from, smr.LSN(chosen), scratch)
			case image == "":
				var nodes *kvNodes
				if nodes, err = findNodes(ctx, &at, args, node); err == nil {
					dir, _, err = freshImage(ctx, s, nodes, scratch, 0)
				}
			}
			if err != nil {
				return err
			}
			s.note("loading the image")
			m := kv.New()
			manifest, err := checkpoint.Load(dir, m)
			if err != nil {
				return err
			}
			keys, err := writeExport(s, output, manifest.Keys, func(w io.Writer, progress func(int)) error { return write(m, manifest, w, progress) })
			if err != nil {
				return fmt.Errorf("export: %w", err)
			}
			result := struct {
				File string `json:"file"`
				LSN  uint64 `json:"lsn"`
				Time string `json:"time"`
				Keys int    `json:"keys"`
			}{output, uint64(manifest.LSN), stampText(manifest.Stamp), keys}
			if output == "-" {
				s.note(fmt.Sprintf("exported %d keys as of LSN %d, %s", keys, result.LSN, result.Time))
				return nil
			}
			return s.show(result, func() {
				s.printf("exported %d keys as of LSN %d, %s, to %s\n", keys, result.LSN, result.Time, output)
			})
		}),
	}
	at.addAll(command)
	flags := command.Flags()
	flags.StringVar(&form, "format", "rdb", "form of the file: rdb, json or resp")
	flags.StringVar(&output, "file", "", "`file` to write, which must not exist; - is the standard output (required)")
	flags.StringVar(&image, "image", "", "`directory` of an image, as in a KV node's images")
	flags.StringVar(&node, "node", "", "take the image from this node")
	flags.StringVar(&from.path, "archive", "", "`directory` of an archive with backups")
	flags.StringVar(&from.cluster, "cluster", "", "with --archive: id of the archived cluster")
	flags.StringVar(&from.group, "group", "", "with --archive: archived group")
	flags.Uint64Var(&chosen, "backup", 0, "with --archive: LSN of the backup (default: the newest)")
	complete(command, "format", "rdb", "json", "resp")
	return command
}

// backupImage fetches the image of a backup below dir.
func backupImage(ctx context.Context, s *screen, from *archived, lsn smr.LSN, dir string) (string, error) {
	a, err := from.open(ctx)
	if err != nil {
		return "", err
	}
	if lsn == 0 {
		list, problems, err := a.List(ctx)
		if err != nil {
			return "", err
		}
		if len(list) == 0 {
			return "", errors.Join(append(problems, fmt.Errorf("archive %s holds no backup: `smrctl backup create` makes one", from.path))...)
		}
		lsn = list[len(list)-1].LSN
	}
	shown := s.bytesDone()
	defer shown.end()
	a.Progress = shown.tell
	target := imageDir(filepath.Join(dir, "images"), lsn)
	_, err = backup.Archive.Fetch(a, ctx, lsn, target)
	return target, err
}

// exporters write a machine in a format.
var exporters = map[string]func(*kv.Machine, *checkpoint.Manifest, io.Writer, func(int)) error{
	"rdb": func(m *kv.Machine, manifest *checkpoint.Manifest, w io.Writer, progress func(int)) error {
		out := rdb.NewWriter(w,
			rdb.Aux{Name: "redis-ver", Text: "7.0.15"}, rdb.Aux{Name: "redis-bits", Text: "64"}, rdb.Aux{Name: "ctime", Text: strconv.FormatInt(manifest.Stamp/1000, 10)},
			rdb.Aux{Name: "used-mem", Text: strconv.FormatInt(manifest.Bytes, 10)}, rdb.Aux{Name: "aof-base", Text: "0"},
			rdb.Aux{Name: "lockstep-ver", Text: release.String()}, rdb.Aux{Name: "lockstep-lsn", Text: strconv.FormatUint(uint64(manifest.LSN), 10)})
		return errors.Join(rdb.Walk(m, out, progress), out.Close())
	},
	"json": func(m *kv.Machine, _ *checkpoint.Manifest, w io.Writer, progress func(int)) error {
		return rdb.WriteJSON(m, w, progress)
	},
	"resp": func(m *kv.Machine, _ *checkpoint.Manifest, w io.Writer, progress func(int)) error {
		out := rdb.NewCommands(w)
		return errors.Join(rdb.Walk(m, out, progress), out.Close())
	},
}

// writeExport writes the file whole or not at all. An existing one is not touched.
func writeExport(s *screen, path string, total int64, write func(io.Writer, func(int)) error) (keys int, err error) {
	shown := s.thingsDone()
	defer shown.end()
	progress := func(n int) {
		keys = n
		shown.tell("writing keys", int64(n), total)
	}
	if path == "-" {
		return keys, write(s.out, progress)
	}
	if _, err := os.Lstat(path); err == nil {
		return 0, fmt.Errorf("%s exists already: name another file, or remove it", path)
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return 0, err
	}
	defer os.Remove(file.Name()) // gone when all went well
	err = write(file, progress)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return keys, err
	}
	return keys, os.Rename(file.Name(), path)
}
