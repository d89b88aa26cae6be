#!/usr/bin/env python3
"""hostile.py OUT: make hostile files into OUT, plus OUT/hostile.json (name, size, what it attacks).

ffmpeg is called twice, for one base MP4 and one base Matroska file. A safe tool may refuse each of these files, or clean
it; it must not crash, hang, use memory or disk out of proportion to the file, follow a path or URL, or write outside its output.
Files whose note starts with LEAK: or AMPLIFY: say what a careless tool would do wrong although the file looks valid.

Only described, not made: a sparse file of 5 TB (ftyp, then an mdat with a 64-bit size of 5 TB, then moov at its end):
  python3 -c "import boxes as x; f=open('big.mp4','wb'); f.write(ftyp + x.u32(1)+b'mdat'+x.u64(5<<40)); f.seek(len(ftyp)+(5<<40)); f.write(moov)"
It attacks tools that map or read a whole file, or that copy mdat without looking for holes and free space."""
import bz2, json, os, random, shutil, struct, subprocess, sys, tempfile, zlib
from boxes import *

M32, M64 = 0xffffffff, 0xffffffffffffffff
TMP = tempfile.mkdtemp(prefix='hostile-')
ALL = []
def hostile(name, attacks):
    def add(fn): ALL.append((name, attacks, fn)); return fn
    return add
def make(name, attacks, fn): ALL.append((name, attacks, fn))

def base(kind, _made={}):
    if kind not in _made:
        path = os.path.join(TMP, 'base.' + kind)
        subprocess.run(['ffmpeg', '-nostdin', '-y', '-v', 'error', '-f', 'lavfi', '-i', 'testsrc2=s=64x48:r=10:d=2', '-f', 'lavfi', '-i', 'sine=r=16000:d=2', '-threads', '1',
                        '-pix_fmt', 'yuv420p', '-c:v', 'libx264', '-crf', '40', '-g', '5', '-c:a', 'aac', '-b:a', '16k', '-flags:v', '+bitexact', '-flags:a', '+bitexact', '-fflags', '+bitexact',
                        *(['-write_crc32', '0'] if kind == 'mkv' else ['-movflags', '+frag_keyframe+empty_moov'] if kind == 'frag.mp4' else []), path], check=True)
        _made[kind] = path
    return _made[kind]

# ------------------------------------------------------------------ MP4
FTYP = box('ftyp', 'isom', u32(512), 'isomiso2avc1mp41')
STBL = 'moov/trak[0]/mdia/minf/stbl'
def dump(m): return b''.join(x.bytes() for x in m.boxes)
def edit(path, change):
    """The base MP4 with the body of one box changed, offsets not corrected."""
    m = Mp4(base('mp4')); x = m.at(path); x.body = change(x.body); return dump(m)
def adding(path, *raws):
    m = Mp4(base('mp4')); m.at(path).kids += [Box(None, body=x) for x in raws]; return dump(m)
def table(typ, body): return lambda: edit(f'{STBL}/{typ}', lambda old: body if isinstance(body, bytes) else body(old))
def nested(typ, n, head=b'', zero=False):
    d = b''
    if zero: return (u32(0) + b(typ) + head) * n                    # each says: up to the end of the file
    parts = [u32((n - i) * (8 + len(head))) + b(typ) + head for i in range(n)]
    return b''.join(parts)
def mvhd(scale=1000, dur=2000, v=0): return full('mvhd', v, 0, *([u32(0), u32(0), u32(scale), u32(dur)] if v == 0 else [u64(0), u64(0), u32(scale), u64(dur)]), u32(65536), u16(256), bytes(10), bytes(36), bytes(24), u32(3))

for typ, pos in (('stsz', 8), ('stco', 4), ('stts', 4), ('ctts', 4), ('stsc', 4), ('stss', 4)):
    make(f'mp4_{typ}_count.mp4', f'{typ}: entry count 2^32-1, few entries behind it: allocation by count, count*size overflow', table(typ, lambda old, pos=pos: old[:pos] + u32(M32) + old[pos + 4:]))
make('mp4_stsz_constant.mp4', 'AMPLIFY: stsz with one constant size of 1 and 2^32-1 samples, valid in 20 bytes: loops of 4 billion steps', table('stsz', u32(0) + u32(1) + u32(M32)))
make('mp4_stsz_constant_zero.mp4', 'stsz constant size field 0 (a table follows) but no table, 2^32-1 samples', table('stsz', u32(0) + u32(0) + u32(M32)))
make('mp4_stsz_sizes_max.mp4', 'every sample size 2^32-1: sum overflow, allocation by sample size', table('stsz', lambda o: o[:12] + b'\xff' * (len(o) - 12)))
make('mp4_stsz_short.mp4', 'stsz of 3 bytes: reading past the box', table('stsz', b'\0\0\0'))
make('mp4_stz2.mp4', 'stz2 with 4-bit fields and a count of 2^32-1 next to stsz', lambda: adding(STBL, full('stz2', 0, 0, u32(4), u32(M32), b'\x11')))
make('mp4_stts_sum.mp4', '1000 stts entries of (2^32-1, 2^32-1): duration sum past 2^64, expanding run-length tables', table('stts', u32(0) + u32(1000) + b'\xff' * 8000))
make('mp4_ctts_runs.mp4', '1000 ctts entries of 2^32-1 samples each with offset -2^31', table('ctts', u32(1 << 24) + u32(1000) + (u32(M32) + u32(1 << 31)) * 1000))
make('mp4_co64_count.mp4', 'co64 with a count of 2^32-1 and offsets of 2^64-1 beside stco', lambda: adding(STBL, full('co64', 0, 0, u32(M32), b'\xff' * 64)))
make('mp4_co64_overflow.mp4', 'offsets 2^64-1: offset + size wraps to a small number', lambda: retype(STBL, 'stco', 'co64', lambda o: o[:8] + b'\xff' * 8 * u(o, 4)))
make('mp4_stco_outside.mp4', 'chunk offsets just before, at and far behind the end of the file', table('stco', lambda o: o[:8] + b''.join(u32(x) for x in ([os.path.getsize(base('mp4')) + d for d in (-1, 0, 1)] + [M32] * u(o, 4))[:u(o, 4)])))
make('mp4_stco_in_moov.mp4', 'LEAK: all chunk offsets point into moov/udta (the metadata itself becomes samples; copying samples copies it)', lambda: point_into('moov'))
make('mp4_overlap.mp4', 'AMPLIFY: 60,000 samples all at the same offset, each as long as mdat: 600 MB output from a 300 kB file', lambda: overlap(60000, 10000))
make('mp4_overlap_chunks.mp4', 'AMPLIFY: one chunk per sample, 20,000 chunks all at the same offset, constant size 10,000', lambda: overlap(20000, 10000, True))
make('mp4_stsc_zero.mp4', 'stsc: 0 samples per chunk: endless loop looking for the next sample', table('stsc', u32(0) + u32(1) + u32(1) + u32(0) + u32(1)))
make('mp4_stsc_huge_run.mp4', 'stsc: 2^32-1 samples per chunk: multiplication overflow', table('stsc', u32(0) + u32(1) + u32(1) + u32(M32) + u32(1)))
make('mp4_stsc_descending.mp4', 'stsc: first_chunk 5, 3, 0, 2^32-1, 1: unsigned differences go negative', table('stsc', u32(0) + u32(5) + b''.join(u32(n) + u32(1) + u32(1) for n in (5, 3, 0, M32, 1))))
make('mp4_stsc_description.mp4', 'stsc: sample description index 0 and 2^32-1: index out of stsd', table('stsc', u32(0) + u32(2) + u32(1) + u32(1) + u32(0) + u32(2) + u32(1) + u32(M32)))
make('mp4_stss_wild.mp4', 'stss: sample numbers 0, 2^32-1, descending', table('stss', u32(0) + u32(4) + u32(0) + u32(M32) + u32(2) + u32(1)))
make('mp4_stsd_count.mp4', 'stsd with a count of 2^32-1 and one entry', lambda: head_of(STBL + '/stsd', u32(0) + u32(M32)))
make('mp4_dref_count.mp4', 'dref with a count of 2^32-1', lambda: head_of('moov/trak[0]/mdia/minf/dinf/dref', u32(0) + u32(M32)))
make('mp4_elst_count.mp4', 'elst: count 2^32-1', lambda: edit('moov/trak[0]/edts/elst', lambda o: o[:4] + u32(M32) + o[8:]))
make('mp4_elst_values.mp4', 'elst version 1: durations 2^64-1, media time -2^63, rate 0 and -1', lambda: edit('moov/trak[0]/edts/elst', lambda o: u32(1 << 24) + u32(3) + (u64(M64) + u64(1 << 63) + u32(0)) * 2 + u64(0) + u64(M64) + u32(M32)))
make('mp4_groups_count.mp4', 'sbgp, sgpd, subs, saiz, saio, senc, sdtp: counts 2^32-1 and entry size 0 (endless loop)', lambda: adding(STBL, full('sbgp', 0, 0, 'roll', u32(M32), u32(M32), u32(M32)), full('sgpd', 1, 0, 'roll', u32(0), u32(M32)),
     full('subs', 0, 0, u32(M32), u32(0), u16(0)), full('saiz', 0, 0, u8(0), u32(M32)), full('saio', 0, 0, u32(M32)), full('senc', 0, 2, u32(M32)), full('sdtp', 0, 0)))
make('mp4_keys_count.mp4', 'keys count 2^32-1, ilst items with key index 0 and 2^32-1, a key of size 0', lambda: adding('moov', meta('mdta', full('keys', 0, 0, u32(M32), u32(0), 'mdta'), box('ilst', u32(16) + u32(0) + u32(8) + b'data', u32(8) + u32(M32)))))
make('mp4_ilst_lies.mp4', 'ilst: data boxes longer than their item, of size 1 to 7, items of size 0', lambda: adding('moov/udta', meta('mdir', box('ilst', box('\xa9nam', u32(1000) + b'data'), *[box('\xa9cmt', u32(n) + b'data' + bytes(8)) for n in range(8)], u32(0) + b'\xa9too'))))
make('mp4_iloc.mp4', 'top-level meta: iloc with 65,535 items, field sizes 15, extents of 2^64-1, construction method 2 (items in items, a loop)', lambda: dump(Mp4(base('mp4'))) + full('meta', 0, 0, hdlr('null'),
     full('iloc', 1, 0, b'\xff\xff', u16(65535), (u16(1) + u16(2) + u16(0) + u16(1) + b'\xff' * 16) * 20), full('iinf', 0, 0, u16(65535)), full('iref', 0, 0, box('iloc', u16(1), u16(1), u16(1)))))
make('mp4_chpl.mp4', 'chpl: 255 chapters promised, names longer than the box', lambda: adding('moov/udta', full('chpl', 1, 0, u32(0), u8(255), u64(M64), u8(255), 'x')))
make('mp4_tref_loop.mp4', 'tref: chap of a track to itself and to 1000 tracks that do not exist', lambda: adding('moov/trak[0]', box('tref', box('chap', u32(1), u32(0), *[u32(n) for n in range(1000)]), box('tmcd', u32(1)), box('hint', b'\0'))))
make('mp4_esds_deep.mp4', 'esds: descriptors nested 5000 deep, lengths of endless 0x80 bytes', lambda: adding('moov/trak[0]/mdia/minf/stbl/stsd/avc1', full('esds', 0, 0, b''.join(b'\x03\x80\x80\x80\x7f' for _ in range(5000)), b'\x80' * 1000)))
make('mp4_avcc_lies.mp4', 'avcC: 31 SPS of 65,535 bytes each promised', lambda: edit('moov/trak[0]/mdia/minf/stbl/stsd/avc1/avcC', lambda o: o[:5] + b'\xff\xff\xff' + o[8:]))
make('mp4_hdlr_short.mp4', 'hdlr with 4 bytes; hdlr name with a Pascal length of 255', lambda: swap('moov/trak[0]/mdia/hdlr', box('hdlr', bytes(4)), 'moov/trak[1]/mdia/hdlr', box('hdlr', bytes(8), 'soun', bytes(12), b'\xff')))
make('mp4_uuid_short.mp4', 'uuid boxes with 0 to 15 bytes of id, in moov and at top level', lambda: adding('moov', *[box('uuid', bytes(n)) for n in range(16)]) + b''.join(box('uuid', b'\xbe' * n) for n in range(16)))
make('mp4_empty_boxes.mp4', 'every box of moov emptied to 8 bytes: missing mandatory children and fields', lambda: FTYP + box('moov', *[box(t) for t in 'mvhd trak udta meta mvex iods cmov'.split()], box('trak', box('mdia', box('minf', box('stbl', *[box(t) for t in 'stsd stts stsc stsz stco'.split()]))))) + box('mdat'))
make('mp4_no_stbl.mp4', 'tracks without stbl, without mdia, without tkhd', lambda: FTYP + box('moov', mvhd(), box('trak', box('mdia', box('minf'))), box('trak'), box('trak', box('mdia'))) + box('mdat', bytes(9)))
make('mp4_track_ids.mp4', 'all tracks with id 0; 3000 empty tracks; mvhd says next id 0', lambda: adding('moov', *[box('trak', full('tkhd', 0, 3, bytes(80)))] * 3000))

for n in range(1, 8): make(f'mp4_size_{n}.mp4', f'a top-level box of size {n}, less than its own header, in front of moov' + (' (size 1 promises a 64-bit size of 3)' if n == 1 else ''), lambda n=n: FTYP + u32(n) + b'free' + (u64(3) if n == 1 else b'') + base_tail())
for name, size in (('2_63', 1 << 63), ('2_64', M64), ('8', 8), ('15', 15), ('wrap', M64 - 15)):
    make(f'mp4_size64_{name}.mp4', f'a free box with the 64-bit size {size:#x}: signed numbers, position + size overflow, smaller than its header', lambda size=size: FTYP + u32(1) + b'free' + u64(size) + base_tail())
make('mp4_size32_max.mp4', 'a moov box of size 2^32-1 in a small file', lambda: FTYP + u32(M32) + base_tail()[4:])
make('mp4_size64_mdat.mp4', 'mdat with a 64-bit size of 2^62, moov behind it in the file', lambda: FTYP + u32(1) + b'mdat' + u64(1 << 62) + bytes(50) + base_tail())
make('mp4_size0_child.mp4', 'boxes of size 0 inside moov, trak and udta (allowed only at top level)', lambda: adding('moov', box('udta', u32(0) + b'name' + bytes(30)), u32(0) + b'free' + bytes(20)))
make('mp4_child_overrun.mp4', 'children larger than their parent, at each level', lambda: dump(Mp4(base('mp4'))).replace(u32(len(dump_at('moov/trak[0]/mdia'))) + b'mdia', u32(0x00ffffff) + b'mdia'))
make('mp4_child_bytes_left.mp4', '1 to 7 bytes left over at the end of containers', lambda: FTYP + box('moov', mvhd(), *[box('trak', b'x' * n) for n in range(1, 8)], b'abc') + box('mdat', b'1') + b'1234567')
make('mp4_nested_moov.mp4', 'moov in moov, 10,000 deep, sizes right: recursion', lambda: FTYP + nested('moov', 10000))
make('mp4_nested_size0.mp4', 'moov of size 0 in moov of size 0, 10,000 deep', lambda: FTYP + nested('moov', 10000, zero=True))
make('mp4_nested_meta.mp4', 'udta/meta/udta/meta ... 10,000 deep', lambda: FTYP + box('moov', mvhd(), nested('meta', 10000, bytes(4))))
make('mp4_nested_trak.mp4', 'trak in trak in trak, 10,000 deep, behind a valid film', lambda: adding('moov', nested('trak', 10000)))
make('mp4_nested_uuid.mp4', 'moof/traf/moof/traf, 10,000 deep', lambda: FTYP + b''.join(u32((10000 - i) * 8) + (b'moof', b'traf')[i % 2] for i in range(10000)))
make('mp4_quadratic.mp4', 'AMPLIFY: 40,000 empty boxes in udta: quadratic work when each is removed from a list', lambda: adding('moov', box('udta', *[box('\xa9nam', u16(0) + u16(0))] * 40000)))
make('mp4_timescale_0.mp4', 'mvhd and mdhd timescale 0: division by zero', lambda: edit('moov/mvhd', lambda o: o[:12] + u32(0) + o[16:]).replace(*mdhd_scale(0)))
make('mp4_timescale_max.mp4', 'version 1 headers, timescale 2^32-1, duration 2^64-1', lambda: swap('moov/mvhd', mvhd(M32, M64, 1), 'moov/trak[0]/mdia/mdhd', full('mdhd', 1, 0, u64(M64), u64(M64), u32(M32), u64(M64), u16(0), u16(0))))
make('mp4_timescale_1.mp4', 'timescale 1, duration 2^64-1, creation times 2^64-1', lambda: swap('moov/mvhd', mvhd(1, M64, 1), 'moov/trak[0]/mdia/mdhd', full('mdhd', 1, 0, u64(M64), u64(M64), u32(1), u64(M64), u16(0x7fff), u16(0))))

TRUN = lambda n, flags=0, *more: full('trun', 0, flags, u32(n), *more)
def frag(*moofs, mvex=b''): return FTYP + box('moov', *[x.bytes() for x in Mp4(base('mp4')).at('moov').kids if x.typ != 'udta'], box('mvex', full('trex', 0, 0, u32(1), u32(1), u32(1), u32(1), u32(0)), mvex)) + b''.join(moofs) + box('mdat', bytes(64))
def moof(*in_traf, seq=1, tfhd=None): return box('moof', full('mfhd', 0, 0, u32(seq)), box('traf', tfhd or full('tfhd', 0, 0x20000, u32(1)), *in_traf))
make('mp4_trun_count.mp4', 'trun: count 2^32-1 with per-sample fields promised, none there', lambda: frag(moof(TRUN(M32, 0xf00))))
make('mp4_trun_empty_samples.mp4', 'AMPLIFY: trun: 2^32-1 samples, no per-sample fields, defaults from trex: no bytes needed', lambda: frag(moof(TRUN(M32))))
make('mp4_trun_offset.mp4', 'trun data offset -2^31 and base data offset 2^64-1', lambda: frag(moof(TRUN(1, 1, u32(1 << 31)), tfhd=full('tfhd', 0, 1, u32(1), u64(M64))), moof(TRUN(1, 1, u32(0x7fffffff)))))
make('mp4_moof_many.mp4', '20,000 empty moof boxes, all with the same sequence number', lambda: frag(moof() * 20000))
make('mp4_traf_many.mp4', 'one moof with 20,000 traf for a track that does not exist', lambda: frag(box('moof', full('mfhd', 0, 0, u32(1)), box('traf', full('tfhd', 0, 0, u32(99))) * 20000)))
make('mp4_moof_overlap.mp4', 'AMPLIFY: 3000 fragments whose trun all refer to the same bytes of the file', lambda: frag(*[moof(TRUN(1, 0x201, u32(0), u32(60000)), tfhd=full('tfhd', 0, 1, u32(1), u64(0)))] * 3000))
make('mp4_truns_piled.mp4', 'AMPLIFY: 4000 fragments, each naming 20,000 samples of 5 bytes, all of the same 100 kB', lambda: b''.join(x.bytes() for x in Mp4(base('frag.mp4')).boxes if x.typ in ('ftyp', 'moov')) + b''.join([moof(TRUN(20000, 1, u32(0)), tfhd=full('tfhd', 0, 0x11, u32(1), u64(400000), u32(5)))] * 4000) + box('mdat', bytes(200000)))
make('mp4_sidx_loop.mp4', 'sidx that refer to themselves (reference type 1, size 0 and whole file), 65,535 references, timescale 0', lambda: frag(full('sidx', 0, 0, u32(1), u32(0), u32(0), u32(0), u16(0), u16(65535), (u32(1 << 31) + u32(1) + u32(0)) * 10), full('sidx', 1, 0, u32(1), u32(0), u64(M64), u64(M64 - 200), u16(0), u16(1), u32(M32) + u32(0) + u32(0))))
make('mp4_mfra.mp4', 'tfra: count 2^32-1, offsets that point at the tfra itself; mfro size 2^32-1', lambda: frag(moof(TRUN(1))) + box('mfra', full('tfra', 1, 0, u32(1), u32(0x3f), u32(M32), u64(M64) + u64(M64)), full('mfro', 0, 0, u32(M32))))
make('mp4_emsg_no_end.mp4', 'emsg and kind strings without an end zero, 100 kB long', lambda: frag(full('emsg', 0, 0, 'x' * 100000)))
make('mp4_pssh.mp4', 'pssh: key count 2^32-1, data size 2^32-1', lambda: adding('moov', full('pssh', 1, 0, bytes(16), u32(M32), u32(M32))))

make('mp4_many_moov.mp4', '500 complete moov boxes', lambda: FTYP + dump_at('moov') * 500 + box('mdat', bytes(99)))
make('mp4_many_ftyp.mp4', '20,000 ftyp boxes', lambda: FTYP * 20000 + base_tail())
make('mp4_moov_twice.mp4', 'LEAK: two different moov: the second has a title; readers disagree which one counts', lambda: dump(Mp4(base('mp4'))) + titled_moov())
make('mp4_no_moov.mp4', 'ftyp and mdat only', lambda: FTYP + box('mdat', bytes(5000)))
make('mp4_no_ftyp.mp4', 'no ftyp; moov first', lambda: dump_at('moov') + box('mdat', bytes(500)))
make('mp4_mdats.mp4', '5000 empty mdat before and after moov', lambda: FTYP + box('mdat') * 5000 + base_tail() + box('mdat') * 5000)
make('mp4_moov_in_mdat.mp4', 'moov only inside mdat', lambda: FTYP + box('mdat', dump_at('moov')))
make('mp4_wide_trick.mp4', 'wide in front of an mdat of size 0: the wide header was meant to become a 64-bit size', lambda: FTYP + dump_at('moov') + box('wide') + u32(0) + b'mdat' + bytes(100))
for i in range(1, 12): make(f'mp4_cut_{i:02}.mp4', f'cut off after {i}/12', lambda i=i: dump(Mp4(base('mp4')))[:os.path.getsize(base('mp4')) * i // 12])
def front(): return FTYP + dump_at('moov') + box('mdat', bytes(3000))
for i in range(1, 12): make(f'mp4_front_cut_{i:02}.mp4', f'moov in front, cut off after {i}/12: inside sample tables', lambda i=i: front()[:len(front()) * i // 12])
make('mp4_cut_in_header.mp4', 'cut off in the middle of the last box header, one 64-bit', lambda: dump(Mp4(base('mp4'))) + u32(1) + b'uuid' + b'\0\0\0')

# --- things that are no MP4, or that lead elsewhere
M3U = '#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXTINF:10,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n'
make('playlist.mp4', 'HLS playlist with an mp4 name: file:///etc/passwd and a URL (SSRF and file read through ffmpeg)', lambda: b(M3U))
make('playlist_concat.mp4', 'HLS playlist with concat: and subfile protocols', lambda: b('#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10.0,\nconcat:http://127.0.0.1:9/h.m3u8|file:///etc/passwd\n#EXTINF:1,\nsubfile,,start,0,end,64,,:/etc/passwd\n#EXT-X-ENDLIST\n'))
make('playlist_ftyp.mp4', 'ftyp in front of an HLS playlist: type sniffing against the reader behind', lambda: FTYP + b('\n' + M3U))
make('dash.mp4', 'DASH manifest with BaseURL to a file', lambda: b('<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><BaseURL>file:///etc/</BaseURL><AdaptationSet><Representation id="1"><BaseURL>passwd</BaseURL></Representation></AdaptationSet></Period></MPD>'))
make('page.mp4', 'HTML page with a script', lambda: b('<!doctype html><script>fetch("http://127.0.0.1:9/")</script><p>KITH'))
make('image.svg.mp4', 'SVG with a script and an external entity', lambda: b('<?xml version="1.0"?><!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><text>&x;</text></svg>'))
make('polyglot_html.mp4', 'valid film, first a ftyp whose bytes are harmless in HTML, script in a free box: a cleaner that keeps free keeps the script', lambda: fronted(box('free', '<html><script>alert("KITHPLANT")</script><plaintext>')))
make('polyglot_zip.mp4', 'valid film that is also a zip (JAR) through bytes at its end', lambda: dump(Mp4(base('mp4'))) + zip_of('../../../../tmp/kith', 'x'))
make('polyglot_js.mp4', 'ftyp size and brand read as a JavaScript comment: ... ftyp/*  */', lambda: fronted(box('skip', '*/=1;alert(1);/*'), ftyp=box('ftyp', 'isom', b'=/*\0', 'isom')))
make('gab2.avi', 'AVI with a GAB2 subtitle that is an HLS playlist (CVE-2017-9993 and its kin)', lambda: avi_gab2())
make('gab2.mp4', 'the same AVI under an mp4 name', lambda: avi_gab2())
make('concat.mp4', 'concat demuxer script', lambda: b('ffconcat version 1.0\nfile /etc/passwd\nfile \'http://127.0.0.1:9/a\'\n'))
make('sdp.mp4', 'SDP session: opens UDP ports', lambda: b('v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n'))
make('mp4_dref_url.mp4', 'dref url without the self-contained flag: file:///etc/passwd', lambda: dref(full('url ', 0, 0, 'file:///etc/passwd\0')))
make('mp4_dref_http.mp4', 'dref url: http:// address, and urn', lambda: dref(full('url ', 0, 0, 'http://127.0.0.1:9/kith.mov\0') + full('urn ', 0, 0, 'urn:x\0http://127.0.0.1:9/\0')))
make('mp4_dref_alis.mov', 'dref alis: Macintosh alias record to /etc/passwd', lambda: dref(full('alis', 0, 0, alias('/etc/passwd'))))
make('mov_rmra.mov', 'reference movies: rmra/rmda/rdrf with file and http, 100 of them', lambda: box('moov', box('rmra', *[box('rmda', full('rdrf', 0, 0, 'url ', u32(len(t)), t), full('rmdr', 0, 0, u32(M32))) for t in ('file:///etc/passwd\0', 'http://127.0.0.1:9/\0', 'rtsp://127.0.0.1:9/\0') * 34])))
make('mov_cmov_bomb.mov', 'AMPLIFY: cmov: 64 MB of zeros in 64 kB, and the length said is 2^32-1', lambda: box('moov', box('cmov', box('dcom', 'zlib'), box('cmvd', u32(M32), zlib.compress(bytes(64 << 20), 9)))))
make('mov_cmov_bomb_honest.mov', 'AMPLIFY: cmov: 64 MB in 64 kB, the length said is right', lambda: box('moov', box('cmov', box('dcom', 'zlib'), box('cmvd', u32(64 << 20), zlib.compress(bytes(64 << 20), 9)))))
def cmov(moov): return box('moov', box('cmov', box('dcom', 'zlib'), box('cmvd', u32(len(moov)), zlib.compress(moov))))
@hostile('mov_cmov_nested.mov', 'cmov in cmov in cmov, 200 deep: recursion through inflate')
def _():
    m = dump_at('moov')
    for _ in range(200): m = cmov(m)
    return FTYP + m + box('mdat', bytes(100))
make('mov_cmov_broken.mov', 'cmov: broken zlib stream, unknown method, no cmvd', lambda: box('moov', box('cmov', box('dcom', 'zlib'), box('cmvd', u32(100), 'xxxx'))) + box('moov', box('cmov', box('dcom', 'bzip'))) + box('moov', box('cmov')))
make('mp4_xml_bomb.mp4', 'XMP uuid and meta/xml with entity expansion and external entities', lambda: dump(Mp4(base('mp4'))) + uuid('BE7ACFCB97A942E89C71999491E3AFAC', LOL) + full('meta', 0, 0, hdlr('mp7t'), full('xml ', 0, 0, LOL, b'\0')))
make('mp4_names.mp4', 'title and file names with control characters, ANSI escapes, ../../, %s%n, RTL marks: log and path injection', lambda: adding('moov', box('udta', *[qtext('\xa9nam', t) for t in ('\x1b]0;x\x07\x1b[2J', '../../../etc/passwd', '%s%n%x', '\u202egpj.exe', '\r\nSet-Cookie: a=b', '$(touch /tmp/kith)', '-vf')])))
make('mp4_ebml.mp4', 'ftyp box, then a whole Matroska file', lambda: FTYP + r(base('mkv')))
make('jpeg.mp4', 'JPEG start with an mp4 name', lambda: b'\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xd9')
make('riff_huge.avi', 'RIFF with sizes 2^32-1 and LIST nested 5000 deep', lambda: b'RIFF' + b'\xff' * 4 + b'AVI ' + (b'LIST' + b'\xff' * 4 + b'hdrl') * 5000)

def u(o, at): return struct.unpack_from('>I', o, at)[0]
def dump_at(path): return Mp4(base('mp4')).at(path).bytes()
def base_tail():
    """Everything but ftyp, offsets not corrected."""
    return b''.join(x.bytes() for x in Mp4(base('mp4')).boxes if x.typ != 'ftyp')
def head_of(path, head): m = Mp4(base('mp4')); m.at(path).head = head; return dump(m)
def retype(path, old, new, change):
    m = Mp4(base('mp4')); x = m.at(path + '/' + old); x.typ, x.body = new, change(x.body); return dump(m)
def swap(*pairs):
    m = Mp4(base('mp4'))
    for path, raw in zip(pairs[::2], pairs[1::2]): m.at(path).body = raw[8:]
    return dump(m)
def mdhd_scale(n): o = Mp4(base('mp4')).at('moov/trak[0]/mdia/mdhd').bytes(); return o, o[:20] + u32(n) + o[24:]
def titled_moov(): m = Mp4(base('mp4')); m.add('moov', box('udta', qtext('\xa9nam', 'KITHPLANT second moov'))); return m.at('moov').bytes()
def fronted(*raws, ftyp=None):
    """A valid film with boxes behind ftyp, offsets corrected."""
    m = Mp4(base('mp4')); m.add('', *raws, index=1)
    if ftyp: m.boxes[0:1] = parse(ftyp)
    p = os.path.join(TMP, 'f.mp4'); m.save(p); return r(p)
def point_into(where):
    m = Mp4(base('mp4')); m.add('moov', box('udta', qtext('\xa9nam', 'KITHPLANT in moov, referred to by a sample'), box('free', bytes(3000)))); d = dump(m); at = d.index(b'KITHPLANT in')
    x = m.at(STBL + '/stco'); x.body = x.body[:8] + u32(at) * u(x.body, 4); return dump(m)
def overlap(n, size, chunked=False):
    m = Mp4(base('mp4')); at = next(x for x in m.boxes if x.typ == 'mdat').segs[0].old
    for typ, body in (('stsz', u32(0) + u32(size) + u32(n) if chunked else u32(0) + u32(0) + u32(n) + u32(size) * n), ('stts', u32(0) + u32(1) + u32(n) + u32(1)), ('stsc', u32(0) + u32(1) + u32(1) + u32(1) + u32(1)), ('stco', u32(0) + u32(n) + u32(at) * n)):
        m.at(f'{STBL}/{typ}').body = body
    m.at(STBL).kids = [k for k in m.at(STBL).kids if k.typ not in ('ctts', 'stss')]
    m.add('', box('free', bytes(size))); return dump(m)
def dref(entries):
    m = Mp4(base('mp4')); x = m.at('moov/trak[0]/mdia/minf/dinf/dref'); x.kids = parse(entries); return dump(m)
def alias(path): p = b(path); return b'\0\0\0\0' + u16(150 + len(p) + 8) + u16(2) + u16(0) + u8(4) + b'Kith'.ljust(27, b'\0') + bytes(12) + u8(6) + b'passwd'.ljust(63, b'\0') + bytes(36) + struct.pack('>hH', 18, len(p)) + p + bytes(len(p) % 2) + struct.pack('>hH', -1, 0)
LOL = '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "KITHKITHKI">' + ''.join(f'<!ENTITY {y} "{f"&{x};" * 10}">' for x, y in zip('abcdefgh', 'bcdefghi')) + '<!ENTITY f SYSTEM "file:///etc/passwd">]><l>&i;&f;</l>'
def avi_gab2():
    chunk = lambda t, d: b(t) + struct.pack('<I', len(d)) + d + bytes(len(d) % 2)
    lst = lambda t, *d: chunk('LIST', b(t) + b''.join(d))
    gab = b'GAB2\0' + struct.pack('<HI', 2, 4) + b'x\0\0\0' + struct.pack('<HI', 4, len(M3U)) + b(M3U)
    strh = lambda t, h: chunk('strh', b(t) + b(h) + struct.pack('<10I', 0, 0, 0, 1, 10, 0, 1, 0, 0, 0) + bytes(8))
    return chunk('RIFF', b'AVI ' + lst('hdrl', chunk('avih', struct.pack('<14I', 100000, 0, 0, 0x10, 1, 0, 2, 0, 64, 48, 0, 0, 0, 0)),
        lst('strl', strh('vids', 'MJPG'), chunk('strf', struct.pack('<IiiHH4sIiiII', 40, 64, 48, 1, 24, b'MJPG', 0, 0, 0, 0, 0))),
        lst('strl', strh('txts', '\0\0\0\0'), chunk('strf', b''))) + lst('movi', chunk('01tx', gab), chunk('00dc', b'\xff\xd8\xff\xd9')))

# ------------------------------------------------------------------ Matroska
HEAD = el('EBML', el('4286', 1), el('42F7', 1), el('MaxID', 4), el('MaxSize', 8), el('DocType', 'matroska'), el('4287', 4), el('4285', 2))
UNK = b'\x01' + b'\xff' * 7
def seg(*parts): return HEAD + el('Segment', *parts)
def rawel(name, size, body=b''): return ID.get(name, b'') + size + b(body)                # an element whose size lies
def deep(name, n, unknown=False, leaf=b''):
    i = ID[name]
    if unknown: return (i + UNK) * n + leaf
    sizes = [len(leaf)]
    for _ in range(n): sizes.append(sizes[-1] + len(i) + 8)
    return b''.join(i + vint(s, 8) for s in reversed(sizes[:-1])) + leaf
INFO = el('Info', el('2AD7B1', 1000000), el('MuxingApp', 'x'), el('WritingApp', 'x'))
def track(no=1, *more, typ=17, codec='S_TEXT/UTF8'): return el('TrackEntry', el('TrackNumber', no), el('TrackUID', no or 1), el('TrackType', typ), el('CodecID', codec), *more)
def blk(body, no=1, flags=0x80, name='SimpleBlock'): return el(name, u8(0x80 | no), u16(0), u8(flags), body)
def small(*cluster, tracks=None): return seg(INFO, el('Tracks', *(tracks or [track()])), el('Cluster', el('Timestamp', 0), *cluster))
def mkedit(change):
    m = Mkv(base('mkv')); change(m); p = os.path.join(TMP, 'e.mkv'); m.save(p); return r(p)
def comp(algo, settings=b'', n=1, order=0): return el('6D80', *[el('6240', el('5031', order + i), el('5032', 1), el('5033', 0), el('5034', el('4254', algo), el('4255', settings))) for i in range(n)])

make('mkv_ids_zero.mkv', 'EBML header, then zeros as element ids', lambda: HEAD + el('Segment', bytes(5000)))
make('mkv_ids_ones.mkv', 'ids of all ones and reserved ids', lambda: seg(b'\xff' * 3000, b'\x7f\xff' * 1000, b'\x1f\xff\xff\xff' * 100))
make('mkv_size_ones.mkv', 'sizes of all ones (unknown) on leaf elements', lambda: HEAD + ID['Segment'] + UNK + ID['Info'] + UNK + ID['Title'] + UNK + b'x' * 100 + ID['Tracks'] + UNK + ID['TrackEntry'] + b'\xff' + ID['Name'] + b'\xff' + b'abc')
make('mkv_size_max.mkv', 'sizes of 2^56-2 on Segment, Tags, Void, EBML header', lambda: HEAD + ID['Segment'] + vint((1 << 56) - 2, 8) + ID['Void'] + vint((1 << 56) - 2, 8) + b'x' * 50)
make('mkv_size_overrun.mkv', 'children larger than their parents at each level', lambda: seg(rawel('Info', vint(10), el('Title', 'y' * 500)), rawel('Tags', vint(5), el('Tag', bytes(300)))))
make('mkv_size_nine.mkv', 'size fields whose first byte is 0 (nine bytes and more)', lambda: seg(ID['Info'] + b'\0' * 9 + b'\x10', ID['Tags'] + b'\0' * 20))
make('mkv_header_huge.mkv', 'EBML header of 2^40 bytes', lambda: ID['EBML'] + vint(1 << 40, 8) + b'B\x86\x81\x01')
make('mkv_header_limits.mkv', 'EBMLMaxIDLength 0 and 2^63, EBMLMaxSizeLength 0, version 2^64-1, DocType of 60 kB', lambda: el('EBML', el('4286', M64), el('42F7', M64), el('MaxID', 0), el('MaxID', 1 << 63), el('MaxSize', 0), el('DocType', 'm' * 60000)) + el('Segment', INFO))
make('mkv_unknown_nested.mkv', 'unknown sizes nested everywhere: Segment in Cluster in Segment, 3000 times', lambda: HEAD + (ID['Segment'] + UNK + ID['Cluster'] + UNK) * 3000)
make('mkv_nested_simpletag.mkv', 'SimpleTag 10,000 deep, sizes right: recursion', lambda: seg(INFO, el('Tags', el('Tag', el('Targets'), deep('SimpleTag', 10000, leaf=el('TagName', 'x'))))))
make('mkv_nested_simpletag_unknown.mkv', 'SimpleTag 10,000 deep, sizes unknown', lambda: HEAD + ID['Segment'] + UNK + ID['Tags'] + UNK + ID['Tag'] + UNK + deep('SimpleTag', 10000, True))
make('mkv_nested_chapters.mkv', 'ChapterAtom 10,000 deep', lambda: seg(INFO, el('Chapters', el('Edition', deep('Atom', 10000)))))
make('mkv_nested_group.mkv', 'BlockGroup in BlockGroup, TrackEntry in TrackEntry, EBML in EBML, 3000 each', lambda: HEAD + deep('EBML', 3000) + el('Segment', el('Tracks', deep('TrackEntry', 3000)), el('Cluster', deep('BlockGroup', 3000))))
make('mkv_cluster_alone.mkv', 'clusters without a segment', lambda: HEAD + el('Cluster', el('Timestamp', 0), blk('x')) * 50)
make('mkv_no_tracks.mkv', 'blocks for tracks that are not declared', lambda: seg(INFO, el('Cluster', el('Timestamp', 0), *[blk('x', n) for n in range(1, 127)])))
make('mkv_linked.mkv', 'segment links: PrevUID, NextUID, PrevFilename with paths, SegmentFamily', lambda: mkedit(lambda m: m.add(m.get('Info'), el('SegmentUID', b'A' * 16), el('PrevUID', b'A' * 16), el('NextUID', b'A' * 16), el('PrevFilename', '/etc/passwd'), el('NextFilename', '../../etc/passwd'), el('Family', b'F' * 16))))
make('mkv_ordered.mkv', 'ordered chapters: an edition whose chapters point to other segments, and to this one 5000 times', lambda: seg(el('Info', el('2AD7B1', 1000000), el('SegmentUID', b'A' * 16)), el('Chapters', el('Edition', el('45DD', 1), el('45DB', 1), *[el('Atom', el('ChapterUID', i), el('ChapterStart', 0), el('92', 10**9), el('6E67', b'AB'[i % 2:i % 2 + 1] * 16), el('6EBC', 1)) for i in range(1, 5000)])), el('Tracks', track())))
make('mkv_zlib_bomb.mkv', 'AMPLIFY: ContentCompression zlib: each block of 64 kB becomes 64 MB', lambda: small(*[blk(zlib.compress(bytes(64 << 20), 9))] * 4, tracks=[track(1, comp(0))]))
make('mkv_bzlib_bomb.mkv', 'AMPLIFY: bzlib: 45 bytes per megabyte; 20 blocks of 64 MB', lambda: small(*[blk(bz2.compress(bytes(64 << 20)))] * 20, tracks=[track(1, comp(1))]))
make('mkv_zlib_nested.mkv', '1000 ContentEncodings in a row on one track, zlib in zlib', lambda: small(blk(zlib.compress(b'x')), tracks=[track(1, comp(0, n=1000))]))
make('mkv_zlib_broken.mkv', 'zlib that never ends, empty block, algorithm 99, encoding type 7, encryption without key', lambda: small(blk(zlib.compress(b'x' * 999)[:-8]), blk(''), blk('x', 2), blk('x', 3), tracks=[track(1, comp(0)), track(2, comp(99)), track(3, el('6D80', el('6240', el('5033', 1), el('5035', el('47E1', 5), el('47E2', bytes(16))))))]))
make('mkv_header_strip.mkv', 'AMPLIFY: header stripping: 100 kB put back in front of each of 30,000 one-byte blocks', lambda: small(*[blk('x')] * 30000, tracks=[track(1, comp(3, bytes(100000)))]))
make('mkv_codecprivate_zlib.mkv', 'AMPLIFY: scope 2: CodecPrivate compressed, 64 MB', lambda: small(blk('x'), tracks=[track(1, el('CodecPrivate', zlib.compress(bytes(64 << 20), 9)), el('6D80', el('6240', el('5031', 0), el('5032', 2), el('5033', 0), el('5034', el('4254', 0)))))]))
make('mkv_lace_count.mkv', 'lace counts of 256 frames with 3 bytes of data, Xiph, fixed and EBML', lambda: small(*[blk(b'\xff\x01\x02', flags=0x80 | k << 1) for k in (1, 2, 3)], blk('', flags=0x82), blk('', flags=0x86), blk('', flags=0x84)))
make('mkv_lace_negative.mkv', 'EBML lacing: differences that make sizes negative, sizes larger than the block', lambda: small(blk(b'\x03' + vint(5, 1) + vint(0, 8) + vint(0, 8) + b'abcdef', flags=0x86), blk(b'\x02' + vint((1 << 56) - 2, 8) + vint((1 << 56) - 2, 8), flags=0x86)))
make('mkv_lace_xiph.mkv', 'Xiph lacing: 50,000 bytes of 255 as one size; fixed lacing that does not divide', lambda: small(blk(b'\x01' + b'\xff' * 50000, flags=0x82), blk(b'\x02abcd', flags=0x84)))
make('mkv_lace_zero.mkv', 'AMPLIFY: 20,000 blocks that each lace 256 frames of 0 bytes: 5 million frames from 160 kB', lambda: small(*[blk(b'\xff', flags=0x84)] * 20000))
make('mkv_block_short.mkv', 'blocks of 0 to 4 bytes, track numbers of 8 bytes, Block outside of BlockGroup', lambda: small(*[el('SimpleBlock', b'\x81\0\0\x80'[:n]) for n in range(5)], el('SimpleBlock', vint(1, 8)), el('SimpleBlock', b'\0' * 9), el('Block', b'\x81\0\0\0x'), el('BlockGroup'), el('BlockGroup', el('Block')), el('BlockGroup', el('Block', b'\x81\0\0\0x'), el('Block', b'\x81\0\0\0y'))))
make('mkv_position_tracks.mkv', 'AMPLIFY: 120 subtitle tracks that are logs of positions, found one after the other behind 60,000 blocks', lambda: small(*[blk('x', 127)] * 60000, *[blk('GPS (8.5678, 47.1234, 18)', n) for n in range(1, 121)], tracks=[track(127, typ=1, codec='V_VP8'), *[track(n) for n in range(1, 121)]]))
make('mkv_million_tags.mkv', 'AMPLIFY: a million empty Tag elements, 3 MB: one object each', lambda: seg(INFO, el('Tags', el('Tag') * 1000000)))
make('mkv_million_void.mkv', '500,000 empty Void elements at segment level', lambda: seg(el('Void') * 500000, INFO))
make('mkv_many_tracks.mkv', '20,000 tracks, all with number 1; number 0; number 2^64-1', lambda: seg(INFO, el('Tracks', track(0), track(M64), track(1) * 20000)))
make('mkv_many_cues.mkv', '50,000 cue points to places out of the file; cue times 2^64-1', lambda: seg(INFO, el('Tracks', track()), el('Cues', el('CuePoint', el('B3', M64), el('CueTrackPos', el('F7', 1), el('F1', 1 << 62), el('CueRel', M64), el('5378', 0))) * 50000)))
make('mkv_seek_self.mkv', 'SeekHead that points to itself, to another that points back, to 2^64-1, to the EBML header', lambda: seg(*[el('SeekHead', *[el('Seek', el('SeekID', i), el('SeekPos', p)) for i, p in ((ID['SeekHead'], 0), (ID['SeekHead'], 100), (ID['Cues'], M64), (ID['Tags'], (1 << 64) - 52), (ID['Info'], 0), (b'', 0))])] * 2, INFO))
@hostile('mkv_seek_into_cluster.mkv', 'LEAK: SeekHead points to a Tags element hidden inside a block: readers that follow it find it, a cleaner that walks from the front does not')
def _():
    rest = INFO + el('Tracks', track()) + el('Cluster', el('Timestamp', 0), blk(el('Tags', tag('COMMENT', 'KITHPLANT hidden in a block'))))
    head = lambda at: el('SeekHead', el('Seek', el('SeekID', ID['Tags']), el('SeekPos', u64(at))))
    return seg(head(len(head(0)) + rest.index(ID['Tags'])), rest)
for name, scale in (('0', 0), ('max', M64)): make(f'mkv_scale_{name}.mkv', f'TimestampScale {scale}: division by zero, overflow', lambda scale=scale: mkedit(lambda m: setscale(m, scale)))
for name, raw in (('nan', struct.pack('>d', float('nan'))), ('inf', struct.pack('>d', float('inf'))), ('negative', struct.pack('>d', -1e300)), ('odd', b'\1\2\3'), ('empty', b''), ('ten', bytes(10))):
    make(f'mkv_duration_{name}.mkv', f'Duration: {name} ({len(raw)} bytes)', lambda raw=raw: mkedit(lambda m: setduration(m, raw)))
make('mkv_numbers_long.mkv', 'integers of 9 and 300 bytes, DateUTC of 3 bytes and of -2^63, CRC-32 of 0 and 5 bytes', lambda: seg(el('CRC'), el('CRC', bytes(5)), el('Info', el('CRC', bytes(3)), el('2AD7B1', bytes(9)), el('DateUTC', b'abc'), el('DateUTC', b'\x80' + bytes(7))), el('Tracks', el('TrackEntry', el('TrackNumber', bytes(300))))))
make('mkv_cluster_time.mkv', 'cluster timestamps 2^64-1 and falling, block times -32768', lambda: seg(INFO, el('Tracks', track()), *[el('Cluster', el('Timestamp', t), el('SimpleBlock', b'\x81\x80\0\x80x')) for t in (M64, 5, 0, 1 << 63)]))
make('mkv_attachment.mkv', 'attachments: name ../../../tmp/kith, name of 1 MB, FileData that promises 2^40 bytes', lambda: seg(INFO, el('Attachments', attach(1, '../../../tmp/kith', 'text/plain', 'x'), attach(2, 'n' * 1000000, '', ''), attach(1, '/etc/cron.d/x\0y', 'x', '')), ID['Attachments'] + vint(1 << 40, 8) + ID['File'] + vint((1 << 40) - 20, 8) + ID['FileData'] + vint((1 << 40) - 40, 8)))
make('mkv_pixels.mkv', 'video of 2^32 x 2^32 pixels, audio with 2^64-1 channels, sampling NaN', lambda: small(blk('x'), tracks=[track(1, el('Video', el('B0', 1 << 32), el('BA', 1 << 32)), typ=1, codec='V_UNCOMPRESSED'), track(2, el('Audio', el('B5', struct.pack('>d', float('nan'))), el('9F', M64)), typ=2, codec='A_PCM/INT/LIT')]))
make('mkv_additions.mkv', '30,000 BlockMore in one group, BlockAddID 0 and 2^64-1', lambda: small(el('BlockGroup', el('Block', b'\x81\0\0\0x'), el('BlockAdditions', el('BlockMore', el('BlockAddID', M64), el('BlockAdditional')) * 30000))))
make('mkv_segments.mkv', '2000 segments in one file, the EBML header repeated', lambda: seg(INFO) * 2000)
make('mkv_segment_in_segment.mkv', 'Segment as a child of Segment, 1000 deep', lambda: HEAD + deep('Segment', 1000, leaf=INFO))
make('mkv_moov.mkv', 'EBML header, then MP4 boxes', lambda: HEAD + dump(Mp4(base('mp4'))))
make('mkv_strings.mkv', 'title and tags with control characters, invalid UTF-8, zero bytes, ANSI escapes', lambda: mkedit(lambda m: m.add(m.get('Info'), el('Title', b'\xff\xfe\xc0\x80\x1b[2J\0\0hidden KITHPLANT'))))
for i in range(1, 12): make(f'mkv_cut_{i:02}.mkv', f'cut off after {i}/12', lambda i=i: r(base('mkv'))[:os.path.getsize(base('mkv')) * i // 12])
make('mkv_cut_in_id.mkv', 'ends in the middle of an id and of a size', lambda: r(base('mkv')) + b'\x1a\x45\xdf')
def setscale(m, n): i = m.get('Info'); i.kids = [k for k in i.kids if k.id != b'\x2a\xd7\xb1']; m.add(i, el('2AD7B1', n))
def setduration(m, raw): i = m.get('Info'); i.kids = [k for k in i.kids if k.id != b'\x44\x89']; m.add(i, el('4489', raw))

# ------------------------------------------------------------------ MPEG-TS
def ts(pid, payload=b'', start=0, cc=0, adapt=None):
    """One packet of 188 bytes; adapt: raw adaptation field with its length byte (which may lie)."""
    h = b'\x47' + u16(start << 14 | pid) + u8((0x30 if adapt is not None and payload else 0x20 if adapt is not None else 0x10) | cc)
    return (h + (adapt or b'') + payload).ljust(188, b'\xff')[:188]
def crc(d):
    c = M32
    for x in d:
        c ^= x << 24
        for _ in range(8): c = (c << 1 ^ 0x04c11db7 if c >> 31 else c << 1) & M32
    return u32(c)
def psi(tid, ident, body, length=None):
    s = u8(tid) + u16(0xb000 | (len(body) + 9 if length is None else length)) + u16(ident) + b'\xc1\0\0' + body; return b'\0' + s + crc(s)
def section(pid, p): return b''.join(ts(pid, p[i:i + 184], int(i == 0), i // 184 % 16) for i in range(0, len(p), 184))
PAT = section(0, psi(0, 1, u16(1) + u16(0xe000 | 256)))
PMT = section(256, psi(2, 1, u16(0xe101) + u16(0xf000) + b'\x1b' + u16(0xe101) + u16(0xf000)))
PES = b'\0\0\1\xe0\0\0\x80\x80\5\x21\0\1\0\1' + b'\0\0\0\1\x09\xf0\0\0\0\1\x67KITH'
make('ts_pat_loop.ts', 'PAT: programs whose PMT is PID 0 (the PAT itself) and the null PID', lambda: section(0, psi(0, 1, u16(1) + u16(0xe000) + u16(2) + u16(0xffff))) * 100)
make('ts_pat_programs.ts', 'PAT with 250 programs that share one PMT, versions changing at each repeat', lambda: b''.join(section(0, psi(0, 1, b''.join(u16(n) + u16(0xe000 | 256) for n in range(v, v + 250)))) + PMT for v in range(60)))
make('ts_pmt_streams.ts', 'AMPLIFY: 30 PMTs of 200 streams each, 6000 elementary streams', lambda: section(0, psi(0, 1, b''.join(u16(n) + u16(0xe000 | 256 + n) for n in range(1, 31)))) + b''.join(section(256 + n, psi(2, n, u16(0xe101) + u16(0xf000) + b''.join(b'\x1b' + u16(0xe000 | (n * 200 + k) % 8000 + 32) + u16(0xf000) for k in range(200)))) for n in range(1, 31)))
make('ts_adaptation.ts', 'adaptation field lengths of 255, 184, 183 and 0 where no room is', lambda: PAT + PMT + b''.join(ts(257, b'x', 1, adapt=u8(n) + b'\x10' + bytes(5)) for n in (255, 184, 183, 0, 1)) * 20)
make('ts_section_length.ts', 'PSI section lengths 4095, 0 and 1, program info length 4095, descriptors of 255 bytes', lambda: section(0, psi(0, 1, u16(1) + u16(0xe100), 4095)) + section(0, psi(0, 1, b'', 0)) + section(0, psi(0, 1, b'', 1)) + PAT + section(256, psi(2, 1, u16(0xe101) + u16(0xffff) + b'\x05\xff' + b'KITH')))
make('ts_pointer.ts', 'pointer_field 255 behind the packet end', lambda: ts(0, b'\xff' + bytes(100), 1) * 20 + PAT + PMT)
make('ts_pcr_jumps.ts', 'PCR jumping between 0 and the maximum, continuity counters wrong, PTS running backwards', lambda: PAT + PMT + b''.join(ts(257, PES, 1, (i * 7) % 16, adapt=b'\7\x10' + (b'\xff' * 6 if i % 2 else bytes(6))) for i in range(500)))
make('ts_null.ts', 'only null packets', lambda: ts(8191) * 5000)
make('ts_m2ts.m2ts', '192-byte packets with time stamps of all ones', lambda: b''.join(b'\xff' * 4 + p for p in [PAT, PMT] + [ts(257, PES, 1, i % 16) for i in range(100)]))
make('ts_sync_lost.ts', 'sync byte missing in every second packet, packets of 187 and 189 bytes', lambda: PAT + PMT + (ts(257, PES, 1) + b'\0' + ts(257, PES, 1)[1:] + ts(257, PES, 1)[:187] + ts(257, PES, 1) + b'x') * 100)
make('ts_pes_lies.ts', 'PES: header length 255, packet length 65,535 never filled, start codes only', lambda: PAT + PMT + (ts(257, b'\0\0\1\xe0\xff\xff\x80\xc0\xff' + b'\xff' * 20, 1) + ts(257, b'\0\0\1' * 60, 1)) * 100)
make('ts_no_pes_end.ts', 'AMPLIFY: one PES of unknown length over 10,000 packets with no start: grows without bound', lambda: PAT + PMT + ts(257, PES, 1) + b''.join(ts(257, b'x' * 184, 0, i % 16) for i in range(10000)))
make('ts_as_mp4.mp4', 'MPEG-TS with an mp4 name', lambda: PAT + PMT + ts(257, PES, 1) * 20)

# ------------------------------------------------------------------ nothing at all
make('empty.mp4', 'no bytes', lambda: b'')
make('empty.mkv', 'no bytes', lambda: b'')
make('one_byte.mp4', 'one byte', lambda: b'\0')
make('seven_bytes.mp4', 'seven bytes: less than a box header', lambda: b'\0\0\0\x08fty')
make('ebml_id_only.mkv', 'the EBML id and nothing more', lambda: ID['EBML'])
make('zeros.mp4', 'only zeros', lambda: bytes(65536))
make('ones.mkv', 'only ones', lambda: b'\xff' * 65536)
make('random.mp4', 'random bytes', lambda: random.Random(1).randbytes(65536))
make('random_ftyp.mp4', 'ftyp, then random bytes', lambda: FTYP + random.Random(2).randbytes(65536))
make('random_ebml.mkv', 'EBML header and Segment, then random bytes', lambda: HEAD + ID['Segment'] + UNK + random.Random(3).randbytes(65536))
make('text.mp4', 'plain text with an mp4 name', lambda: b('KITHPLANT is no film.\n' * 50))
for i in range(20): make(f'flip_{i:02}.mp4', 'valid film with 30 bytes of moov changed at random', lambda i=i: flip(dump(Mp4(base('mp4'))), i, 'mp4'))
for i in range(20): make(f'flip_{i:02}.mkv', 'valid film with 30 bytes of its first 600 and last 300 changed at random', lambda i=i: flip(r(base('mkv')), i, 'mkv'))
def flip(d, seed, kind):
    g, d = random.Random(seed), bytearray(d); at = d.index(b'moov') if kind == 'mp4' else 0
    for _ in range(30): d[g.randrange(at, len(d)) if kind == 'mp4' else g.choice((g.randrange(600), len(d) - 1 - g.randrange(300)))] = g.choice((0, 1, 127, 128, 255, g.randrange(256)))
    return bytes(d)

def main():
    out = sys.argv[1]; os.makedirs(out, exist_ok=True); listing = []
    assert len({n for n, *_ in ALL}) == len(ALL)
    for name, attacks, fn in ALL:
        d = fn(); w(os.path.join(out, name), d); listing.append(dict(name=name, size=len(d), attacks=attacks))
    json.dump(listing, open(os.path.join(out, 'hostile.json'), 'w'), indent=1); shutil.rmtree(TMP)
    print(len(listing), 'files,', sum(x['size'] for x in listing), 'bytes')

if __name__ == '__main__': main()
