package pricelist

import (
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/machine"
)

// ACISource is where the prices of Azure Container Instances were read: Microsoft's public list of retail prices, the
// meters "Standard vCPU Duration" and "Standard Memory Duration" of the service "Container Instances".
const ACISource = "https://prices.azure.com/api/retail/prices"

// aciRegion is what Linux containers cost in a region: for each processor and each GB, per hour, billed by the second.
type aciRegion struct {
	cpuHour, gbHour machine.Rate
	date            string // on which they were read
}

// aciRegions returns the regions whose prices are known.
func aciRegions() map[string]aciRegion {
	return map[string]aciRegion{
		"eastus":        {40_500_000, 4_450_000, "2026-08-27"},
		"swedencentral": {46_600_000, 5_110_000, "2026-09-06"},
	}
}

// ACI is the price list of Azure Container Instances with Linux: per second, by processors, memory and region.
type ACI struct{}

// Price implements [machine.Pricer]. It needs a region that is on the list and a size that says how many processors and how
// much memory there are; a GPU has no known price.
func (ACI) Price(size machine.Size, region string) (machine.Price, bool) {
	if size.GPU != "" || size.CPUs <= 0 || size.MemoryMB <= 0 {
		return machine.Price{}, false
	}
	known := aciRegions()
	return dearest(strings.Split(region, ","), func(region string) (machine.Price, bool) {
		r, ok := known[strings.ToLower(strings.TrimSpace(region))]
		return machine.Price{Rate: r.cpuHour.Times(size.CPUs) + r.gbHour.OfMiB(size.MemoryMB), Minimum: time.Second, Date: r.date}, ok
	})
}
