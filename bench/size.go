package main

import (
	"context"
	"fmt"
	"os"
)

// measureSize measures the programs. The agent goes into every machine, so its size is time each machine takes to boot.
func measureSize(_ context.Context, b *bench, g *Group) error {
	agent, err := fileSize(b.agent)
	if err != nil {
		return err
	}
	server, err := fileSize(b.dayfly)
	if err != nil {
		return err
	}
	g.figure("dayfly-agent", "MiB").atMost(8).add(agent)
	g.figure("dayfly", "MiB").add(server)
	return nil
}

// fileSize returns the size of a file in MiB.
func fileSize(file string) (float64, error) {
	info, err := os.Stat(file)
	if err != nil {
		return 0, fmt.Errorf("looking at a program: %w", err)
	}
	return float64(info.Size()) / (1 << 20), nil
}
