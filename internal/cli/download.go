package cli

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

func (p *program) downloadCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "download JOB [GLOB]...",
		Short: "Bring home the files that a job has left",
		Long: `Brings a job's artifacts into the current directory, all of them or those that match a GLOB, checked against their
SHA-256, and prints their names. An existing file of that name is replaced once its replacement has arrived whole.

A GLOB is like one of dayfly run --out: * does not cross a directory, ** is any number of directories.`,
		Example: `  JOB=$(dayfly run --detach --in song.wav --out song.mp3 -- ffmpeg -i song.wav song.mp3)
  dayfly wait $JOB && dayfly download $JOB
  dayfly download --out-dir results job_… '**/*.png'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(cmd, "%s wants the id of a job; %s jobs lists them", cmd.CommandPath(), p.name())
			}
			return nil
		},
		ValidArgsFunction: p.completeJobs,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, pattern := range args[1:] {
				if err := checkPattern(pattern); err != nil {
					return usage(cmd, "%v", err)
				}
			}
			return p.with(cmd, func(ctx context.Context, c *connection) error { return p.downloadJob(ctx, c, args[0], args[1:], dir) })
		},
	}
	cmd.Flags().StringVar(&dir, "out-dir", ".", "the `DIR` to bring them to")
	return cmd
}

func (p *program) downloadJob(ctx context.Context, c *connection, id string, patterns []string, dir string) error {
	job, err := c.Job(ctx, id)
	if err != nil {
		return err
	}
	var artifacts []dayfly.Artifact
	for _, a := range job.Artifacts {
		if len(patterns) == 0 || slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, a.Name) }) {
			artifacts = append(artifacts, a)
		}
	}
	if len(artifacts) == 0 {
		return p.noArtifacts(job, patterns)
	}
	names, err := p.download(ctx, c, job.ID, artifacts, dir, true)
	if err != nil {
		return err
	}
	if p.json {
		return p.printJSON(artifacts)
	}
	for _, name := range names {
		fmt.Fprintln(p.out, plain(name))
	}
	return nil
}

// noArtifacts says why there is nothing to bring home.
func (p *program) noArtifacts(job *dayfly.Job, patterns []string) error {
	switch {
	case !job.State.Terminal():
		return fault.Say(fault.Conflict, "%s is %s and has no files yet; they are there when it has ended: %s", job.ID, job.State, p.typed("wait", job.ID))
	case len(job.Artifacts) > 0:
		return fault.Say(fault.Invalid, "none of the %d files of %s matches %s; %s lists them",
			len(job.Artifacts), job.ID, strings.Join(patterns, " or "), p.typed("show", job.ID))
	case len(job.Spec.Outputs) == 0:
		return fault.Say(fault.Invalid, "%s has no files: none were asked for; %s run --out says which to keep", job.ID, p.name())
	}
	return fault.Say(fault.Invalid, "%s has no files: nothing it left matched %s", job.ID, strings.Join(job.Spec.Outputs, " or "))
}

// matches reports whether a name matches a pattern, in which ** is any number of directories.
func matches(pattern, name string) bool {
	return matchParts(strings.Split(path.Clean(pattern), "/"), strings.Split(name, "/"))
}

func matchParts(pattern, name []string) bool {
	switch {
	case len(pattern) == 0:
		return len(name) == 0
	case pattern[0] == "**":
		for i := range len(name) + 1 {
			if matchParts(pattern[1:], name[i:]) {
				return true
			}
		}
		return false
	case len(name) == 0:
		return false
	}
	ok, err := path.Match(pattern[0], name[0])
	return err == nil && ok && matchParts(pattern[1:], name[1:])
}
