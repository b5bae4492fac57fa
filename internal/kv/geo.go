package kv

import (
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

var geoCommands = []Command{
	{Name: "geoadd", Arity: -5, Flags: Write | DenyOOM, FirstKey: 1, LastKey: 1, Step: 1, run: geoAdd},
	{Name: "geodist", Arity: -4, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: geoDist},
	{Name: "geohash", Arity: -2, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: geoHash},
	{Name: "geopos", Arity: -2, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: geoPos},
	{Name: "georadius", Arity: -6, Flags: Write | DenyOOM | Movable, FirstKey: 1, LastKey: 1, Step: 1, run: geoRadius},
	{Name: "georadius_ro", Arity: -6, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: geoRadiusRO},
	{Name: "georadiusbymember", Arity: -5, Flags: Write | DenyOOM | Movable, FirstKey: 1, LastKey: 1, Step: 1, run: geoRadiusByMember},
	{Name: "georadiusbymember_ro", Arity: -5, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: geoRadiusByMemberRO},
	{Name: "geosearch", Arity: -7, Flags: Readonly, FirstKey: 1, LastKey: 1, Step: 1, run: geoSearch},
	{Name: "geosearchstore", Arity: -8, Flags: Write | DenyOOM, FirstKey: 1, LastKey: 2, Step: 1, run: geoSearchStore},
}

// geoPoint reads arguments i and i+1 as longitude and latitude, or replies an error.
func (c call) geoPoint(i int) (p geoPoint, ok bool) {
	if p.longitude, ok = c.double(i, errFloat); !ok {
		return p, false
	}
	if p.latitude, ok = c.double(i+1, errFloat); !ok {
		return p, false
	}
	if !p.valid() {
		text := fmt.Sprintf("%f,%f", p.longitude, p.latitude)
		c.reply.Error("ERR invalid longitude,latitude pair " + strings.ToLower(strings.ReplaceAll(text, "+", ""))) // C prints inf
		return p, false
	}
	return p, true
}

// double reads argument i as a number, or replies text.
func (c call) double(i int, text string) (float64, bool) {
	f, ok := parseDouble(c.args[i])
	if !ok {
		c.reply.Error(text)
	}
	return f, ok
}

// geoUnit reads argument i as a unit of length and returns it in metres, or replies an error.
func (c call) geoUnit(i int) (float64, bool) {
	switch {
	case c.is(i, "m"):
		return 1, true
	case c.is(i, "km"):
		return 1000, true
	case c.is(i, "ft"):
		return 0.3048, true
	case c.is(i, "mi"):
		return 1609.34, true
	}
	c.reply.Error("ERR unsupported unit provided. please use M, KM, FT, MI")
	return 0, false
}

func geoAdd(c call) {
	var o zaddOptions
	i := 2
options:
	for ; i < len(c.args); i++ {
		switch {
		case c.is(i, "nx"):
			o.nx = true
		case c.is(i, "xx"):
			o.xx = true
		case c.is(i, "ch"):
			o.ch = true
		default:
			break options
		}
	}
	if (len(c.args)-i)%3 != 0 || o.nx && o.xx || i == len(c.args) {
		c.reply.Error(errSyntax)
		return
	}
	var pairs [][]byte
	for ; i < len(c.args); i += 3 {
		p, ok := c.geoPoint(i)
		if !ok {
			return
		}
		pairs = append(pairs, strconv.AppendInt(nil, int64(geoScore(p)), 10), c.args[i+2])
	}
	c.addScores(o, pairs)
}

// geoMember returns the position of a member, false if it or its key is not there.
func geoMember(z *zsetObject, e *entry, name []byte) (geoPoint, bool) {
	if e == nil {
		return geoPoint{}, false
	}
	score, ok := z.score(name)
	return pointOf(score), ok
}

func geoPos(c call) {
	z, e, ok := c.zset()
	if !ok {
		return
	}
	c.reply.Array(len(c.args) - 2)
	for _, name := range c.args[2:] {
		if p, ok := geoMember(z, e, name); ok {
			c.replyPoint(p)
		} else {
			c.reply.NullArray()
		}
	}
}

func (c call) replyPoint(p geoPoint) {
	c.reply.Array(2)
	for _, f := range []float64{p.longitude, p.latitude} {
		text := formatLongDouble(new(big.Float).SetFloat64(f))
		if c.three() {
			c.reply.Raw(append(append([]byte{','}, text...), "\r\n"...))
		} else {
			c.reply.Bulk(text)
		}
	}
}

func (c call) replyDistance(f float64) {
	var digits [40]byte
	c.reply.Bulk(strconv.AppendFloat(digits[:0], f, 'f', 4, 64))
}

func geoDist(c call) {
	unit := 1.0
	switch {
	case len(c.args) == 5:
		var ok bool
		if unit, ok = c.geoUnit(4); !ok {
			return
		}
	case len(c.args) > 5:
		c.reply.Error(errSyntax)
		return
	}
	z, e, ok := c.zset()
	if !ok {
		return
	}
	first, ok := geoMember(z, e, c.args[2])
	second, ok2 := geoMember(z, e, c.args[3])
	if !ok || !ok2 {
		c.reply.Null()
		return
	}
	c.replyDistance(geoDistance(first, second) / unit)
}

func geoHash(c call) {
	const alphabet = "0123456789bcdefghjkmnpqrstuvwxyz"
	z, e, ok := c.zset()
	if !ok {
		return
	}
	c.reply.Array(len(c.args) - 2)
	for _, name := range c.args[2:] {
		p, ok := geoMember(z, e, name)
		if !ok {
			c.reply.Null()
			continue
		}
		bits := cellOf(p, geoSteps, 90).bits
		var text [11]byte
		for i := range text[:10] {
			text[i] = alphabet[bits>>(47-5*i)&31]
		}
		text[10] = alphabet[0] // 52 bits are ten letters and two bits
		c.reply.Bulk(text[:])
	}
}

// geoRequest is a parsed GEOSEARCH or GEORADIUS.
type geoRequest struct {
	shape                 geoShape
	search                bool // GEOSEARCH: centre and shape are options
	fromMember, fromPoint bool
	byRadius, byBox       bool
	hash, point, far      bool // WITHHASH, WITHCOORD, WITHDIST
	ascending, descending bool
	any                   bool
	count                 int64  // 0: all
	store                 []byte // key that takes the result
	storable              bool   // STORE and STOREDIST are options
	storeDistance         bool
}

func geoRadius(c call)         { c.geoRadius(6, true) }
func geoRadiusRO(c call)       { c.geoRadius(6, false) }
func geoRadiusByMember(c call) { c.geoRadius(5, true) }
func geoRadiusByMemberRO(c call) {
	c.geoRadius(5, false)
}

// geoRadius answers the GEORADIUS commands; the options begin at argument options, 6 if the centre is given as a point.
func (c call) geoRadius(options int, storable bool) {
	r := geoRequest{storable: storable}
	z, e, ok := c.zset()
	if !ok {
		return
	}
	switch {
	case options == 6:
		if r.shape.center, ok = c.geoPoint(2); !ok {
			return
		}
	case e != nil:
		if r.shape.center, ok = geoMember(z, e, c.args[2]); !ok {
			c.reply.Error(errGeoMember)
			return
		}
	}
	if (options == 6 || e != nil) && !c.geoReach(&r, options-2) {
		return
	}
	if c.parseGeoOptions(&r, options, z, e) {
		c.answerGeo(r, z, e)
	}
}

const errGeoMember = "ERR could not decode requested zset member"

// geoReach reads arguments i and i+1 as radius and unit, or replies an error.
func (c call) geoReach(r *geoRequest, i int) (ok bool) {
	if r.shape.radius, ok = c.double(i, "ERR need numeric radius"); !ok {
		return false
	}
	if r.shape.radius < 0 {
		c.reply.Error("ERR radius cannot be negative")
		return false
	}
	r.shape.unit, ok = c.geoUnit(i + 1)
	return ok
}

// geoBox reads three arguments as width, height and unit, or replies an error.
func (c call) geoBox(r *geoRequest, i int) (ok bool) {
	if r.shape.width, ok = c.double(i, "ERR need numeric width"); !ok {
		return false
	}
	if r.shape.height, ok = c.double(i+1, "ERR need numeric height"); !ok {
		return false
	}
	if r.shape.width < 0 || r.shape.height < 0 {
		c.reply.Error("ERR height or width cannot be negative")
		return false
	}
	r.shape.radius = -1
	r.shape.unit, ok = c.geoUnit(i + 2)
	return ok
}

func geoSearch(c call) {
	r := geoRequest{search: true}
	z, e, ok := c.zset()
	if ok && c.parseGeoOptions(&r, 2, z, e) {
		c.answerGeo(r, z, e)
	}
}

func geoSearchStore(c call) {
	r := geoRequest{search: true, store: c.args[1]}
	z, e, ok := objectOf[*zsetObject](c, c.args[2])
	if ok && c.parseGeoOptions(&r, 3, z, e) {
		c.answerGeo(r, z, e)
	}
}

// parseGeoOptions reads the options from argument i on, or replies an error.
func (c call) parseGeoOptions(r *geoRequest, i int, z *zsetObject, e *entry) bool {
	for i < len(c.args) {
		left := len(c.args) - i - 1
		used := 1
		ok := true
		switch {
		case c.is(i, "withdist"):
			r.far = true
		case c.is(i, "withhash"):
			r.hash = true
		case c.is(i, "withcoord"):
			r.point = true
		case c.is(i, "any"):
			r.any = true
		case c.is(i, "asc"):
			r.ascending, r.descending = true, false
		case c.is(i, "desc"):
			r.ascending, r.descending = false, true
		case c.is(i, "count") && left >= 1:
			if r.count, ok = c.integer(i + 1); ok && r.count <= 0 {
				c.reply.Error("ERR COUNT must be > 0")
				return false
			}
			used = 2
		case r.storable && left >= 1 && (c.is(i, "store") || c.is(i, "storedist")):
			r.store, r.storeDistance = c.args[i+1], c.is(i, "storedist")
			used = 2
		case r.search && left >= 1 && !r.fromPoint && c.is(i, "frommember"):
			if e != nil {
				if r.shape.center, ok = geoMember(z, e, c.args[i+1]); !ok {
					c.reply.Error(errGeoMember)
				}
			}
			r.fromMember, used = true, 2
		case r.search && left >= 2 && !r.fromMember && c.is(i, "fromlonlat"):
			r.shape.center, ok = c.geoPoint(i + 1)
			r.fromPoint, used = true, 3
		case r.search && left >= 2 && !r.byBox && c.is(i, "byradius"):
			ok = c.geoReach(r, i+1)
			r.byRadius, used = true, 3
		case r.search && left >= 3 && !r.byRadius && c.is(i, "bybox"):
			ok = c.geoBox(r, i+1)
			r.byBox, used = true, 4
		case r.search && r.store != nil && c.is(i, "storedist"):
			r.storeDistance = true
		default:
			c.reply.Error(errSyntax)
			return false
		}
		if !ok {
			return false
		}
		i += used
	}
	return c.checkGeoRequest(r)
}

func (c call) checkGeoRequest(r *geoRequest) bool {
	switch name := string(c.args[0]); {
	case r.store != nil && (r.far || r.hash || r.point):
		what := "STORE option in GEORADIUS"
		if r.search {
			what = "GEOSEARCHSTORE"
		}
		c.reply.Error("ERR " + what + " is not compatible with WITHDIST, WITHHASH and WITHCOORD options")
	case r.search && !r.fromMember && !r.fromPoint:
		c.reply.Error("ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for " + name)
	case r.search && !r.byRadius && !r.byBox:
		c.reply.Error("ERR exactly one of BYRADIUS and BYBOX can be specified for " + name)
	case r.any && r.count == 0:
		c.reply.Error("ERR the ANY argument requires COUNT argument")
	default:
		return true
	}
	return false
}

// geoFound is a member inside the shape.
type geoFound struct {
	name     []byte // of the sorted set
	score    float64
	point    geoPoint
	distance float64 // metres
}

// find returns the members of z inside the shape, in the order in which Redis finds them.
func (r geoRequest) find(z *zsetObject) []geoFound {
	var found []geoFound
	for _, cell := range r.shape.cells() {
		from, end := cell.scores()
		first := z.countWhile(func(m ranked) bool { return m.score < from })
		last := z.countWhile(func(m ranked) bool { return m.score < end })
		z.eachRank(first, last, false, func(m ranked) bool {
			p := pointOf(m.score)
			if d, inside := r.shape.distance(p); inside {
				found = append(found, geoFound{m.name, m.score, p, d})
			}
			return !r.any || int64(len(found)) < r.count
		})
		if r.any && int64(len(found)) >= r.count {
			break
		}
	}
	return found
}

func (c call) answerGeo(r geoRequest, z *zsetObject, e *entry) {
	var found []geoFound
	if e != nil {
		found = r.find(z)
	}
	ascending := r.ascending || r.count > 0 && !r.any && !r.descending
	if ascending || r.descending {
		slices.SortStableFunc(found, func(a, b geoFound) int {
			order := 0
			switch {
			case a.distance < b.distance:
				order = -1
			case a.distance > b.distance:
				order = 1
			}
			if r.descending {
				return -order
			}
			return order
		})
	}
	if r.count > 0 && int64(len(found)) > r.count {
		found = found[:r.count]
	}
	if r.store != nil {
		c.storeGeo(r, found)
		return
	}
	c.reply.Array(len(found))
	for _, f := range found {
		c.replyFound(r, f)
	}
}

func (c call) replyFound(r geoRequest, f geoFound) {
	if !r.far && !r.hash && !r.point {
		c.reply.Bulk(f.name)
		return
	}
	parts := 1
	for _, with := range []bool{r.far, r.hash, r.point} {
		if with {
			parts++
		}
	}
	c.reply.Array(parts)
	c.reply.Bulk(f.name)
	if r.far {
		c.replyDistance(f.distance / r.shape.unit)
	}
	if r.hash {
		c.reply.Int(int64(f.score))
	}
	if r.point {
		c.replyPoint(f.point)
	}
}

func (c call) storeGeo(r geoRequest, found []geoFound) {
	result := &zsetObject{limits: c.limits()}
	for _, f := range found {
		score := f.score
		if r.storeDistance {
			score = f.distance / r.shape.unit
		}
		result.insertNew(f.name, score)
	}
	event := "georadiusstore"
	if r.search {
		event = "geosearchstore"
	}
	c.replace(r.store, result, len(found), EventZset, event)
	c.reply.Int(int64(len(found)))
}
