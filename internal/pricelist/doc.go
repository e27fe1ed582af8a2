// Package pricelist holds what machines cost whose provider does not bring its own prices, as [machine.Pricer]: nothing on
// hardware of one's own, and the public prices of clouds, as they were on a day that each list names. They are facts to
// be compared with the cloud's own page now and then, and the configuration can put others in their place.
//
// What is not on a list has no known price: a guess would be worse than none, because caps on what a job may cost rely on
// it. Prices are those of machines alone. Traffic, storage, addresses, discounts and taxes are not part of them.
package pricelist

import "github.com/dayfly-run/dayfly/machine"

// ByKind returns the price list of a kind of provider, and whether there is one. Machines on hardware of one's own cost
// nothing unless the configuration says otherwise.
func ByKind(kind string) (machine.Pricer, bool) {
	switch kind {
	case "local", "docker":
		return machine.OwnPrices{}, true
	case "aci":
		return ACI{}, true
	}
	return nil, false
}

// dearest returns the highest price of some, unless one of them is not known. There has to be one at least.
func dearest(regions []string, price func(region string) (machine.Price, bool)) (machine.Price, bool) {
	var most machine.Price
	for _, region := range regions {
		p, ok := price(region)
		if !ok {
			return machine.Price{}, false
		}
		if p.Rate >= most.Rate {
			most = p
		}
	}
	return most, len(regions) > 0
}
