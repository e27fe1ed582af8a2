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
		Short: "List the pools of warm machines",
		Long: `Lists the pools that the server's configuration names, with their machines counted. A job that names a pool, with
--pool, runs on one of its machines that is idle, and starts without a boot; when none is, it starts as any other.

  WARMING   are being made, or boot
  IDLE      wait for a job
  BUSY      have one, or are about to
  CLEANING  are made ready for the next
  LEAVING   are being destroyed`,
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
	if p.json {
		return p.printJSON(pools)
	}
	if len(pools) == 0 {
		p.note("There are no pools. A section [pools.NAME] of the server's configuration makes one.")
		return nil
	}
	rows := [][]string{{"NAME", "PROVIDER", "WARMING", "IDLE", "BUSY", "CLEANING", "LEAVING", "MIN", "MAX", "USES", "SIZE", "IMAGE"}}
	for _, pool := range pools {
		n := pool.Machines
		rows = append(rows, []string{
			pool.Name, where(pool.Provider, pool.Region), fmt.Sprint(n["warming"]), fmt.Sprint(n["idle"]), fmt.Sprint(n["reserved"] + n["busy"]),
			fmt.Sprint(n["recycling"]), fmt.Sprint(n["draining"]), fmt.Sprint(pool.Min), fmt.Sprint(pool.Max), fmt.Sprint(pool.Uses),
			pool.Size, pool.Image,
		})
	}
	if err := table(p.out, p.fit(rows, "IMAGE", "SIZE", "LEAVING", "CLEANING", "USES")); err != nil {
		return err
	}
	for _, pool := range pools {
		if pool.PausedUntil != nil {
			p.note("%s", paused(&pool))
		}
	}
	return nil
}

// paused says why a pool makes no machines, and until when.
func paused(pool *dayfly.WarmPool) string {
	return fmt.Sprintf("Pool %s makes no machines until %s. %s", pool.Name, pool.PausedUntil.Local().Format(time.TimeOnly), plain(pool.Message))
}
