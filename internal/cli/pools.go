package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/dayfly-run/dayfly"
)

func (p *program) poolsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "pools",
		Short: "List the pools of warm machines and the fleets of programs",
		Long: `Lists the pools that the server's configuration names, with their machines counted. A job that names a pool, with
--pool, runs on one of its machines that is idle, and starts without a boot; when none is, it starts as any other.

Then it lists the fleets: warm runners that programs share which call their own functions. Programs make them, and they
are gone some time after the last of those.

  WARMING   are being made, or boot
  IDLE      wait for a job
  BUSY      have one
  CLEANING  are made ready for the next
  LEAVING   are being destroyed
  JOBS      have so many now, of as many as the machines that are there carry out at once
  WAITING   for a runner of a fleet, so many wait`,
		Example: "  dayfly pools\n  dayfly run --pool ffmpeg -- ffmpeg -i in.wav out.mp3",
		Args:    exactly(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.with(cmd, p.listPools) },
	}
}

func (p *program) listPools(ctx context.Context, c *connection) error {
	pools, err := c.Pools(ctx)
	if err != nil {
		return err
	}
	fleets, err := c.Fleets(ctx)
	if err != nil {
		return err
	}
	if p.json {
		return p.printJSON(map[string]any{"pools": pools, "fleets": fleets})
	}
	switch {
	case len(pools) == 0 && len(fleets) == 0:
		p.note("There are no pools. A section [pools.NAME] of the server's configuration makes one.")
	case len(pools) > 0:
		if err := p.printPools(pools); err != nil {
			return err
		}
	}
	if len(fleets) == 0 {
		return nil
	}
	if len(pools) > 0 {
		fmt.Fprintln(p.out)
	}
	return p.printFleets(fleets)
}

func (p *program) printPools(pools []dayfly.WarmPool) error {
	rows := [][]string{{"NAME", "PROVIDER", "WARMING", "IDLE", "BUSY", "CLEANING", "LEAVING", "MIN", "MAX", "JOBS", "USES", "SIZE", "IMAGE"}}
	for _, pool := range pools {
		n := pool.Machines
		rows = append(rows, []string{
			pool.Name, where(pool.Provider, pool.Region), fmt.Sprint(n["warming"]), fmt.Sprint(n["idle"]), fmt.Sprint(n["busy"]),
			fmt.Sprint(n["recycling"]), fmt.Sprint(n["draining"]), fmt.Sprint(pool.Min), fmt.Sprint(pool.Max), jobsOf(&pool), fmt.Sprint(pool.Uses),
			pool.Size, pool.Image,
		})
	}
	if err := table(p.out, p.fit(rows, "IMAGE", "SIZE", "LEAVING", "CLEANING", "USES", "JOBS")); err != nil {
		return err
	}
	for _, pool := range pools {
		if pool.PausedUntil != nil {
			p.note("%s", paused(&pool))
		}
	}
	return nil
}

// jobsOf says how many jobs the machines of a pool have, and could.
func jobsOf(pool *dayfly.WarmPool) string {
	all := 0
	for use, n := range pool.Slots {
		if use != "draining" {
			all += n
		}
	}
	return fmt.Sprintf("%d/%d", pool.Slots["busy"], all)
}

func (p *program) printFleets(fleets []dayfly.FleetStatus) error {
	rows := [][]string{{"FLEET", "PROVIDER", "WARMING", "IDLE", "BUSY", "LEAVING", "WAITING", "MIN", "MAX", "PROGRAMS", "TOKEN"}}
	for _, f := range fleets {
		n := f.Runners
		rows = append(rows, []string{
			f.Name, f.Provider, fmt.Sprint(n["warming"]), fmt.Sprint(n["idle"]), fmt.Sprint(n["lent"] + n["busy"] + n["unheard"]),
			fmt.Sprint(n["draining"]), fmt.Sprint(f.Waiting), fmt.Sprint(f.Min), fmt.Sprint(f.Max), fmt.Sprint(f.Programs), f.Token,
		})
	}
	if err := table(p.out, p.fit(rows, "TOKEN", "LEAVING", "PROGRAMS")); err != nil {
		return err
	}
	for _, f := range fleets {
		if f.FailedAt == nil {
			continue
		}
		text := fmt.Sprintf("A runner of fleet %s did not boot at %s. %s", f.Name, f.FailedAt.Local().Format(time.TimeOnly), plain(f.Message))
		if f.PausedUntil != nil {
			text += fmt.Sprintf(" No more are made until %s.", f.PausedUntil.Local().Format(time.TimeOnly))
		}
		p.note("%s", text)
	}
	return nil
}

// paused says why a pool makes no machines, and until when.
func paused(pool *dayfly.WarmPool) string {
	return fmt.Sprintf("Pool %s makes no machines until %s. %s", pool.Name, pool.PausedUntil.Local().Format(time.TimeOnly), plain(pool.Message))
}
