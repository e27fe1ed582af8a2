package flyapi

import (
	"slices"
	"strings"
)

// region is a place as the API lists it.
type region struct {
	Code             string  `json:"code"`
	Name             string  `json:"name"`
	Latitude         float64 `json:"latitude"`
	Longitude        float64 `json:"longitude"`
	GatewayAvailable bool    `json:"gateway_available"`
	RequiresPaidPlan bool    `json:"requires_paid_plan"`
	Deprecated       bool    `json:"deprecated"`
	Capacity         int     `json:"capacity"`
	area             string  // of which aliases it is a part
}

// knownRegions returns Fly's regions. Here a region is a label that a machine carries: all of them are this provider.
func knownRegions() []region {
	var all []region
	for _, r := range []struct {
		code, name string
		lat, long  float64
		area       string
	}{
		{"ams", "Amsterdam, Netherlands", 52.37, 4.89, "eu"},
		{"arn", "Stockholm, Sweden", 59.65, 17.92, "eu"},
		{"atl", "Atlanta, Georgia (US)", 33.64, -84.43, "us na"},
		{"bog", "Bogotá, Colombia", 4.70, -74.15, "sa"},
		{"bom", "Mumbai, India", 19.09, 72.87, "apac"},
		{"bos", "Boston, Massachusetts (US)", 42.37, -71.02, "us na"},
		{"cdg", "Paris, France", 48.86, 2.35, "eu"},
		{"den", "Denver, Colorado (US)", 39.86, -104.67, "us na"},
		{"dfw", "Dallas, Texas (US)", 32.78, -96.81, "us na"},
		{"ewr", "Secaucus, NJ (US)", 40.79, -74.06, "us na"},
		{"eze", "Ezeiza, Argentina", -34.81, -58.54, "sa"},
		{"fra", "Frankfurt, Germany", 50.17, 8.68, "eu"},
		{"gdl", "Guadalajara, Mexico", 20.52, -103.31, "na"},
		{"gig", "Rio de Janeiro, Brazil", -22.81, -43.25, "sa"},
		{"gru", "Sao Paulo, Brazil", -23.55, -46.63, "sa"},
		{"hkg", "Hong Kong, Hong Kong", 22.25, 114.20, "apac"},
		{"iad", "Ashburn, Virginia (US)", 39.02, -77.46, "us na"},
		{"jnb", "Johannesburg, South Africa", -26.13, 28.23, ""},
		{"lax", "Los Angeles, California (US)", 33.94, -118.41, "us na"},
		{"lhr", "London, United Kingdom", 51.51, -0.13, "eu"},
		{"mad", "Madrid, Spain", 40.47, -3.57, "eu"},
		{"mia", "Miami, Florida (US)", 25.79, -80.29, "us na"},
		{"nrt", "Tokyo, Japan", 35.76, 140.39, "apac"},
		{"ord", "Chicago, Illinois (US)", 41.89, -87.62, "us na"},
		{"otp", "Bucharest, Romania", 44.44, 26.10, "eu"},
		{"phx", "Phoenix, Arizona (US)", 33.43, -112.01, "us na"},
		{"qro", "Querétaro, Mexico", 20.59, -100.39, "na"},
		{"scl", "Santiago, Chile", -33.36, -70.67, "sa"},
		{"sea", "Seattle, Washington (US)", 47.45, -122.31, "us na"},
		{"sin", "Singapore, Singapore", 1.29, 103.85, "apac"},
		{"sjc", "San Jose, California (US)", 37.35, -121.94, "us na"},
		{"syd", "Sydney, Australia", -33.87, 151.21, "apac"},
		{"waw", "Warsaw, Poland", 52.17, 20.97, "eu"},
		{"yul", "Montreal, Canada", 45.48, -73.60, "na"},
		{"yyz", "Toronto, Canada", 43.64, -79.42, "na"},
	} {
		all = append(all, region{Code: r.code, Name: r.name, Latitude: r.lat, Longitude: r.long, GatewayAvailable: true, Capacity: 1000, area: r.area})
	}
	return all
}

func validRegion(code string) bool {
	if len(code) < 2 || len(code) > 12 {
		return false
	}
	return strings.Trim(code, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// regionsOf returns the regions that an expression names, in the order in which they are to be tried: codes and aliases,
// separated by commas. No expression is the default region alone.
func (s *Service) regionsOf(expression string) ([]string, error) {
	if strings.TrimSpace(expression) == "" {
		return s.Regions[:1], nil
	}
	var named []string
	for part := range strings.SplitSeq(expression, ",") {
		part = strings.ToLower(strings.TrimSpace(part))
		switch {
		case slices.Contains(s.Regions, part):
			named = append(named, part)
		case slices.Contains([]string{"any", "us", "usa", "na", "sa", "eu", "apac"}, part):
			named = append(named, s.regionsIn(part)...)
		default:
			return nil, invalid("region %.40q is not one of the regions of this server: %s", part, strings.Join(s.Regions, ", "))
		}
	}
	if len(named) == 0 {
		return nil, invalid("region %.80q names no region of this server: %s", expression, strings.Join(s.Regions, ", "))
	}
	var unique []string
	for _, code := range named {
		if !slices.Contains(unique, code) {
			unique = append(unique, code)
		}
	}
	return unique, nil
}

// regionsIn returns the regions that an alias stands for.
func (s *Service) regionsIn(alias string) []string {
	if alias == "any" {
		return s.Regions
	}
	if alias == "usa" {
		alias = "us"
	}
	var in []string
	for _, r := range knownRegions() {
		if slices.Contains(strings.Fields(r.area), alias) && slices.Contains(s.Regions, r.Code) {
			in = append(in, r.Code)
		}
	}
	return in
}
