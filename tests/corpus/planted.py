#!/usr/bin/env python3
"""planted.py OUT: make every planted video file into OUT, plus OUT/plants.json (what is planted where).

Every text plant is KITHPLANT + 2 digits file number + 2 digits plant number. Dates are 2019-07-13T11:22:33Z,
places are 47.1234 N 8.5678 E. Uses boxes.py beside this file, ffmpeg, exiftool and mkvmerge. The files are the same in every run (one encoder thread, bitexact muxing, no clocks, no random UIDs)."""
import json, os, re, shutil, struct, subprocess, sys, tempfile, zlib
from functools import lru_cache
from boxes import *

DATE = '2019-07-13T11:22:33Z'
UNIX = 1563016953
MAC = UNIX + 2082844800                       # seconds since 1904: mvhd, tkhd, mdhd, pnot
MKV = (UNIX - 978307200) * 10**9              # nanoseconds since 2001: DateUTC
FILETIME = (UNIX + 11644473600) * 10**7       # 100 ns since 1601: Xtra
LAT, LON, ISO = 47.1234, 8.5678, '+47.1234+008.5678/'
TMP = tempfile.mkdtemp(prefix='planted-')
FILM, TRACK, BLOCK = 'film', 'own track', 'block element'   # in_samples: in the film's own samples; in samples of a track to drop; beside a block

def tmp(name, data): return w(os.path.join(TMP, name), b(data))
def run(*a): subprocess.run(a, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
def ff(*a): run('ffmpeg', '-nostdin', '-y', '-v', 'error', *a[:-1], '-fflags', '+bitexact', a[-1])
def exiftool(path, *tags): run('exiftool', '-q', '-overwrite_original', *tags, path)

# ------------------------------------------------------------------ plants and recipes
class Plants:
    """Collects what a recipe plants; calling it gives the next marker."""
    def __init__(self, no): self.no, self.all, self.decode_args = no, [], []
    def note(self, place, form, pattern, kind='metadata', in_samples=False, text=None):
        self.all.append(dict(text=text, place=place, form=form, pattern_hex=pattern.hex(), kind=kind, in_samples=in_samples))
        return pattern
    def __call__(self, place, form='utf-8', kind='metadata', in_samples=False):
        text = f'KITHPLANT{self.no:02}{len(self.all) + 1:02}'
        self.note(place, form, text.encode(form if form[:4] == 'utf-' else 'utf-8'), kind, in_samples, text)
        return text
    def date(self, place, pattern, in_samples=False): return self.note(place, 'date', b(pattern), 'date', in_samples, DATE)
    def gps(self, place, pattern, in_samples=False): return self.note(place, 'gps', b(pattern), 'gps', in_samples, f'{LAT} {LON}')
    def four(self, place, in_samples=False): return self.note(place, 'raw 4 bytes', b'KiTh', 'metadata', in_samples, 'KiTh')

RECIPES = []
def recipe(ext, note=''):
    def add(fn): RECIPES.append((fn.__name__, ext, note or (fn.__doc__ or '').strip(), fn)); return fn
    return add

# ------------------------------------------------------------------ base films (made once per run)
SRC = ('-f', 'lavfi', '-i', 'testsrc2=s=160x120:r=15:d=3', '-f', 'lavfi', '-i', 'sine=f=440:r=48000:d=3', '-threads', '1', '-pix_fmt', 'yuv420p')
X264 = ('-c:v', 'libx264', '-preset', 'veryfast', '-crf', '34', '-g', '15', '-bf', '2')
EXACT = ('-flags:v', '+bitexact', '-flags:a', '+bitexact')
AAC = ('-c:a', 'aac', '-b:a', '32k')
VP9 = ('-c:v', 'libvpx-vp9', '-deadline', 'realtime', '-cpu-used', '8', '-b:v', '60k', '-g', '15')
OPUS = ('-c:a', 'libopus', '-b:a', '24k', '-vbr', 'off')

@lru_cache(None)
def media(name):
    out = os.path.join(TMP, name)
    args = {
        'h264.mp4': lambda: (*SRC, *X264, *AAC, *EXACT, '-bsf:v', 'filter_units=remove_types=6'),
        'h264.mov': lambda: ('-i', media('h264.mp4'), '-c', 'copy'),
        'h264.mkv': lambda: ('-i', media('h264.mp4'), '-c', 'copy', '-write_crc32', '0'),
        'frag.mp4': lambda: ('-i', media('h264.mp4'), '-c', 'copy', '-movflags', 'frag_keyframe+empty_moov+default_base_moof'),
        'vp9.webm': lambda: (*SRC, *VP9, *OPUS, *EXACT, '-write_crc32', '0', '-cluster_time_limit', '1000'),
        'cover.jpg': lambda: ('-f', 'lavfi', '-i', 'testsrc2=s=64x48:d=1', '-frames:v', '1', '-flags:v', '+bitexact', '-update', '1'),
        'two.mka': lambda: ('-i', media('h264.mp4'), '-i', media('h264.mp4'), '-map', '0:a', '-map', '1:a', '-c', 'copy'),
    }[name]()
    ff(*args, out)
    return out

def jpeg(P, place):
    path = shutil.copy(media('cover.jpg'), os.path.join(TMP, f'cover{P.no}-{len(P.all)}.jpg'))
    exiftool(path, '-EXIF:Artist=' + P(place + '/JPEG/EXIF Artist'), '-XMP-dc:Title=' + P(place + '/JPEG/XMP'), '-Comment=' + P(place + '/JPEG/COM'),
             f'-EXIF:GPSLatitude={LAT}', f'-EXIF:GPSLongitude={LON}', '-EXIF:GPSLatitudeRef=N', '-EXIF:GPSLongitudeRef=E')
    P.gps(place + '/JPEG/EXIF GPSLatitude', struct.pack('>6I', 47, 1, 7, 1, 606, 25))
    return r(path)

# ------------------------------------------------------------------ recipes: MP4 and MOV
EVERY = ('nam', 'cmt', 'ART', 'too', 'day', 'mak', 'mod', 'swr')

@recipe('mov')
def mov_udta_strings(P, out):
    """QuickTime user data strings, with a UTF-16 one, a size-0 end mark and text after it."""
    m = Mp4(media('h264.mov'))
    m.add('moov/udta', *[qtext('\xa9' + k, P(f'moov/udta/\xa9{k}')) for k in EVERY], qtext('\xa9xyz', P.gps('moov/udta/\xa9xyz', ISO).decode(), ENG),
          qtext('\xa9inf', '\ufeff' + P('moov/udta/\xa9inf', 'utf-16-be'), ENG, 'utf-16-be'),
          box('name', P('moov/udta/name')), box('\xa9gpt', u16(0)), u32(0) + b(P('moov/udta after its 32-bit end mark')))
    m.save(out)

@recipe('mp4')
def mp4_ilst(P, out):
    """iTunes items, freeform items, UTF-16 items, an item with two data boxes."""
    m = Mp4(media('h264.mp4'))
    m.add('moov/udta', meta('mdir', box('ilst', *[item('\xa9' + k, P(f'moov/udta/meta/ilst/\xa9{k}')) for k in EVERY],
          item('\xa9lyr', P('moov/udta/meta/ilst/\xa9lyr', 'utf-16-be').encode('utf-16-be'), 2), item('desc', P('.../ilst/desc')),
          item('\xa9xyz', P.gps('moov/udta/meta/ilst/\xa9xyz', ISO)),
          box('\xa9grp', data(1, 'one'), data(1, P('.../ilst/\xa9grp, second data box'))), item('purd', P.date('.../ilst/purd', '2019-07-13 11:22:33')),
          box('----', full('mean', 0, 0, P('.../ilst/----/mean')), full('name', 0, 0, P('.../ilst/----/name')), data(1, P('.../ilst/----/data')))),
          box('free', bytes(50))), qtext('\xa9xyz', P.gps('moov/udta/\xa9xyz', ISO).decode(), ENG))
    m.save(out)

@recipe('mp4')
def mp4_ilst_by_ffmpeg(P, out):
    """What ffmpeg writes itself: title, artist, comment, location, encoder, creation_time, stream titles."""
    tags = [x for k in ('title', 'artist', 'comment', 'album', 'copyright', 'description') for x in ('-metadata', f'{k}={P("ilst item for " + k)}')]
    ff('-i', media('h264.mp4'), '-c', 'copy', *tags, '-metadata', 'encoder=x', '-metadata', 'location=' + ISO,
       '-metadata', 'creation_time=' + DATE, '-metadata:s:v', 'handler_name=' + P('video hdlr'), '-metadata:s:a', 'title=' + P('audio trak/udta'), out)
    P.date('mvhd, tkhd, mdhd', u32(MAC)); P.gps('moov/udta/loci', i32(int(LON * 65536)) + i32(int(LAT * 65536)))

@recipe('mp4')
def mp4_cover(P, out):
    """covr items: JPEG with EXIF, XMP, COM and GPS; PNG with tEXt."""
    m = Mp4(media('h264.mp4'))
    chunk = lambda t, d: u32(len(d)) + t + d + u32(zlib.crc32(t + d))
    png = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 1, 1, 8, 0, 0, 0, 0)) + \
        chunk(b'tEXt', b'Comment\0' + b(P('covr/PNG tEXt'))) + chunk(b'IDAT', zlib.compress(b'\0\0')) + chunk(b'IEND', b'')
    m.add('moov/udta', meta('mdir', box('ilst', box('covr', data(13, jpeg(P, 'covr')), data(14, png)))))
    m.save(out)

@recipe('mov')
def mov_keys(P, out):
    """mdta keys written by ffmpeg (use_metadata_tags): GPS, make, model, software, creation date, own key."""
    q = 'com.apple.quicktime.'
    tags = [f'{q}{k}={P("moov/meta/keys " + q + k)}' for k in ('make', 'model', 'software', 'description')] + [
        f'{q}location.ISO6709={P.gps("moov/meta " + q + "location.ISO6709", ISO).decode()}',
        f'{q}creationdate={P.date("moov/meta " + q + "creationdate", "2019-07-13T11:22:33+0000").decode()}', f'{P("key name in moov/meta/keys")}=1']
    ff('-i', media('h264.mp4'), '-c', 'copy', '-movflags', 'use_metadata_tags', *[x for t in tags for x in ('-metadata', t)], out)

@recipe('mov')
def mov_keys_binary(P, out):
    """moov/meta as QuickTime writes it (no version word) and moov/udta/meta, keys with UTF-16, JPEG and raw values."""
    m = Mp4(media('h264.mov'))
    pairs = [('com.apple.quicktime.title', 2, P('moov/meta key, UTF-16', 'utf-16-be').encode('utf-16-be')),
             ('com.apple.quicktime.artwork', 13, jpeg(P, 'moov/meta artwork key')), ('com.kith.raw', 0, b'\x01\xff' + b(P('moov/meta key, raw'))),
             ('com.apple.quicktime.location.ISO6709', 1, P.gps('moov/meta location', ISO))]
    m.add('moov', meta('mdta', mdta(pairs), qt=True))
    m.add('moov/udta', meta('mdta', mdta([('com.android.version', 1, P('moov/udta/meta key'))])))
    m.save(out)

@recipe('mp4')
def mp4_xmp_uuid(P, out):
    """XMP by exiftool (uuid BE7ACFCB...), one more in moov by hand, a uuid box with EXIF for Canon, PSP's USMT."""
    shutil.copy(media('h264.mp4'), out)
    exiftool(out, '-XMP-dc:Description=' + P('top-level uuid XMP'), '-XMP-tiff:Make=' + P('top-level uuid XMP Make'), f'-XMP-exif:GPSLatitude={LAT}',
             f'-XMP-exif:GPSLongitude={LON}', f'-XMP-xmp:CreateDate=2019:07:13 11:22:33Z')
    P.date('XMP CreateDate', '2019-07-13T11:22:33Z'); P.gps('XMP GPSLatitude', '47,7.404')
    m = Mp4(out)
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" ' \
          f'xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="{P("moov/uuid XMP")}"/></rdf:RDF></x:xmpmeta>'
    m.add('moov', uuid('BE7ACFCB-97A9-42E8-9C71-999491E3AFAC', xmp),
          uuid('85c0b687-820f-11e0-8111-f4ce462b6a48', box('CNCV', P('moov/uuid Canon/CNCV')), box('CMT1', tiff(P('moov/uuid Canon/CMT1 EXIF')))))
    t = '\0' + P('uuid USMT/MTDT', 'utf-16-be') + '\0'
    m.add('', uuid('55534d54-21d2-4fce-bb88-695cfac9c740', box('MTDT', u16(1), u16(10 + 2 * len(t)), u32(1), u16(ENG), u16(1), t.encode('utf-16-be'))))
    m.save(out)

@recipe('mov')
def mov_xmp_udta(P, out):
    """XMP in udta/XMP_, user data, items and keys, all written by exiftool."""
    shutil.copy(media('h264.mov'), out)
    exiftool(out, '-XMP-dc:Title=' + P('moov/udta/XMP_ title'), '-UserData:Comment=' + P('moov/udta comment'), '-ItemList:Title=' + P('ilst title'),
             '-Keys:Author=' + P('moov/meta keys author'), f'-Keys:GPSCoordinates={LAT}, {LON}, 400', '-QuickTime:CreateDate=2019:07:13 11:22:33')
    P.gps('Keys GPSCoordinates', '+47.1234+008.5678'); P.date('mvhd', u32(MAC))

@recipe('mp4')
def mp4_times(P, out):
    """Creation and modification time in every mvhd, tkhd, mdhd, 32 bit."""
    m = Mp4(media('h264.mp4'))
    for x in m.all('mvhd', 'tkhd', 'mdhd'): x.body = x.body[:4] + u32(MAC) * 2 + x.body[12:]; P.date(x.typ, u32(MAC))
    m.save(out)

@recipe('mp4')
def mp4_times_64(P, out):
    """The same in version 1 headers, 64 bit; pre-roll fields of mvhd hold text."""
    m = Mp4(media('h264.mp4'))
    for x in m.all('mvhd', 'tkhd', 'mdhd'):
        cut = 16 if x.typ != 'tkhd' else 20
        x.body = b'\1' + x.body[1:4] + u64(MAC) * 2 + x.body[12:cut] + u64(struct.unpack_from('>I', x.body, cut)[0]) + x.body[cut + 4:]
        P.date(x.typ + ' version 1', u64(MAC))
    x = m.at('moov/mvhd'); x.body = x.body[:-28] + b(P('mvhd pre_defined words')).ljust(24, b'\0') + x.body[-4:]
    m.save(out)

@recipe('mp4')
def mp4_track_udta(P, out):
    """Several audio tracks; user data and meta boxes in trak, mdia, minf and stbl."""
    ff('-i', media('h264.mp4'), '-i', media('h264.mp4'), '-map', '0', '-map', '1:a', '-c', 'copy', '-metadata:s:a:0', 'title=' + P('trak[1]/udta/name by ffmpeg'),
       '-metadata:s:a:1', 'language=deu', out)
    m = Mp4(out)
    m.add('moov/trak[0]/udta', box('name', P('trak/udta/name')), full('titl', 0, 0, u16(ENG), P('trak/udta/titl'), b'\0'), qtext('\xa9nam', P('trak/udta/\xa9nam')),
          full('tagc', 0, 0, P('trak/udta/tagc')), full('kind', 0, 0, P('trak/udta/kind scheme'), b'\0', P('trak/udta/kind value'), b'\0'),
          meta('mdir', box('ilst', item('\xa9nam', P('trak/udta/meta/ilst/\xa9nam')))), full('elng', 0, 0, P('trak/udta/elng'), b'\0'))
    m.add('moov/trak[1]', meta('mdta', mdta([('com.kith', 1, P('trak/meta/ilst'))])), meta('ID32', full('ID32', 0, 0, u16(ENG), id3(P('trak/meta/ID32', 'utf-16-le')))))
    m.add('moov/trak[0]/mdia', box('udta', box('name', P('mdia/udta/name'))), full('elng', 0, 0, 'en-x-' + P('mdia/elng'), b'\0'))
    m.add('moov/trak[0]/mdia/minf', box('udta', box('name', P('minf/udta/name'))))
    m.add('moov/trak[0]/mdia/minf/stbl', box('udta', box('name', P('stbl/udta/name'))), meta('mdta', box('free', P('stbl/meta/free'))))
    m.save(out)

@recipe('mov')
def mov_hdlr(P, out):
    """Names of handlers (Pascal string, mdia and minf), bytes hidden behind the name, component maker and subtype words."""
    m = Mp4(media('h264.mov'))
    name = lambda t: u8(len(t)) + b(t)
    m.at('moov/trak[0]/mdia/hdlr').body = hdlr('vide', name(P('trak[0] hdlr, Pascal string')) + b'\0' + b(P('trak[0] hdlr, after the name')), b'mhlr', P.four('hdlr maker'))[8:]
    m.at('moov/trak[0]/mdia/minf/hdlr').body = hdlr('url ', name(P('trak[0] minf hdlr')), b'dhlr')[8:]
    m.at('moov/trak[1]/mdia/hdlr').body = hdlr('soun', P('trak[1] hdlr, C string'))[8:]
    m.add('moov', hdlr('mdir', P('hdlr straight in moov')))
    m.save(out)

@recipe('mov')
def mov_sample_entry(P, out):
    """Compressor name and the slack behind it, vendor codes, boxes inside the sample entry, colour table bytes, slack of avcC."""
    m = Mp4(media('h264.mov'))
    e = m.at('moov/trak[0]/mdia/minf/stbl/stsd/avc1')
    name = u8(13) + b(P('avc1 compressorname')) + b'\0' + b(P('avc1 slack behind compressorname'))
    e.head = e.head[:12] + P.four('avc1 vendor') + e.head[16:42] + name.ljust(32, b'\0') + e.head[74:]
    a = m.at('moov/trak[0]/mdia/minf/stbl/stsd/avc1/avcC'); a.body += b(P('avcC, bytes after its end'))
    m.add('moov/trak[0]/mdia/minf/stbl/stsd/avc1', uuid(SOME_UUID % 1, P('avc1/uuid')), box('free', P('avc1/free')), box('KITH', P('avc1/unknown box')))
    s = m.at('moov/trak[1]/mdia/minf/stbl/stsd').kids[0]; s.body = s.body[:12] + P.four('mp4a vendor') + s.body[16:]
    m.save(out)

@recipe('mp4')
def mp4_gpmd(P, out):
    """GoPro: a gpmd track with samples between the film's, and udta boxes FIRM, LENS, CAME, MUID, GPMF."""
    m = Mp4(media('h264.mp4'))
    pos = struct.pack('>5i', int(LAT * 1e7), int(LON * 1e7), 400000, 1000, 1000)
    P.gps('gpmd samples GPS5', pos[:8], TRACK); P.date('gpmd samples GPSU', '190713112233.000', TRACK)
    def sample(i):
        strm = klv('STNM', 'c', 1, b(P(f'gpmd sample {i} STNM', in_samples=TRACK))) + klv('GPSU', 'U', 16, b'190713112233.000') + klv('SCAL', 'l', 4, struct.pack('>5i', 10**7, 10**7, 1000, 1000, 100)) + klv('GPS5', 'l', 20, pos)
        return klv('DEVC', '', 1, klv('DVID', 'L', 4, u32(1)) + klv('DVNM', 'c', 1, b(P(f'gpmd sample {i} DVNM', in_samples=TRACK)).ljust(16)) + klv('STRM', '', 1, strm))
    add_track(m, 'meta', '\x0bGoPro MET  ', entry('gpmd', u32(0)), [sample(i) for i in range(5)], GMHD)
    m.add('moov/udta', *[box(k, P('moov/udta/' + k)) for k in ('FIRM', 'LENS', 'CAME', 'MUID', 'SETT')], box('GPMF', klv('DEVC', '', 1, klv('MINF', 'c', 1, b(P('moov/udta/GPMF MINF')).ljust(16)))))
    m.save(out)

@recipe('mov')
def mov_mebx(P, out):
    """Apple timed metadata (mebx): location and a free key, samples between the film's."""
    m = Mp4(media('h264.mov'))
    key = lambda n, name: box('x', box('keyd', 'mdta', name), box('dtyp', u32(0), u32(1)))[:4] + u32(n) + box('keyd', 'mdta', name) + box('dtyp', u32(0), u32(1))
    keys = [(1, 'com.apple.quicktime.location.ISO6709'), (2, P('mebx key name'))]
    fix = lambda raw: u32(len(raw)) + raw[4:]
    e = entry('mebx', box('keys', *[fix(key(n, k)) for n, k in keys]))
    P.gps('mebx samples', ISO, TRACK)
    vals = [[(1, ISO), (2, P(f'mebx sample {i}', in_samples=TRACK))] for i in range(4)]
    add_track(m, 'meta', P('mebx hdlr name'), e, [b''.join(u32(8 + len(v)) + u32(n) + b(v) for n, v in s) for s in vals], GMHD, ref='cdsc')
    m.save(out)

@recipe('mp4')
def mp4_other_timed(P, out):
    """More timed metadata: camm (GPS), mett with a MIME type, urim, and a telemetry subtitle as DJI writes it."""
    m = Mp4(media('h264.mp4'))
    camm = b'\0\0' + struct.pack('<H3d', 5, LAT, LON, 400.0); P.gps('camm samples', struct.pack('<2d', LAT, LON), TRACK)
    add_track(m, 'camm', 'CameraMetadataMotionHandler', entry('camm'), [camm] * 4, NMHD)
    add_track(m, 'meta', '', entry('mett', b'\0', P('mett mime type'), b'\0'), [b(P(f'mett sample {i}', in_samples=TRACK)) for i in range(3)], NMHD)
    add_track(m, 'meta', '', entry('urim', full('uri ', 0, 0, 'urn:' + P('urim uri'), b'\0')), [b(P(f'urim sample {i}', in_samples=TRACK)) for i in range(3)], NMHD)
    line = lambda i: b(f'F/2.8, SS 100, GPS (8.5678, 47.1234, 17) {P(f"DJI telemetry subtitle sample {i}", in_samples=TRACK)}')
    P.gps('telemetry subtitle', 'GPS (8.5678, 47.1234, 17)', TRACK)
    tx3g = entry('tx3g', bytes(4), u8(1), u8(255), bytes(4), bytes(8), u16(0), u16(0), u16(1), u8(0), u8(18), b'\xff' * 4, box('ftab', u16(1), u16(1), u8(13), P('tx3g font name')))
    add_track(m, 'sbtl', '\x10DJI.Subtitle    ', tx3g, [u16(len(t)) + t + box('href', u16(0), u16(5), u8(13), P(f'href after tx3g text {i}', in_samples=TRACK), u8(0)) for i in range(3) for t in [line(i)]], NMHD)
    m.save(out)

@recipe('mov')
def mov_tmcd(P, out):
    """Timecode track with reel name by ffmpeg; reel name in the sample entry; counter font name."""
    ff('-i', media('h264.mov'), '-c', 'copy', '-timecode', '11:22:33:04', '-metadata:s:v', 'reel_name=' + P('tmcd sample entry name (reel)'), out)
    m = Mp4(out); t = next(x for x in m.all('gmhd'))
    t.kids = [k for k in t.kids if k.typ != 'tmcd'] + parse(box('tmcd', full('tcmi', 0, 0, u16(0), u16(0), u16(12), u16(0), bytes(12), u8(13), P('tcmi font name'))))
    m.save(out)

@recipe('mp4')
def mp4_chapters_multi(P, out):
    """Two audio tracks, mov_text subtitles (text must stay), chapter text track and chpl, stream titles, creation time."""
    chap = tmp('c.txt', CHAPTERS % (P('chapter 1 (text track and chpl)', kind='content'), P('chapter 2', kind='content')))
    ff('-i', media('h264.mp4'), '-i', media('two.mka'), '-i', tmp('k.srt', srt('KEEPTHIS one', 'KEEPTHIS two', 'KEEPTHIS three')), '-i', chap, '-map', '0:v', '-map', '1', '-map', '2',
       '-map_chapters', '3', '-c', 'copy', '-c:s', 'mov_text', '-metadata:s:a:0', 'title=' + P('title of audio 0'), '-metadata:s:a:1', 'language=fra',
       '-metadata:s:s:0', 'title=' + P('title of subtitles'), '-metadata', 'creation_time=' + DATE, out)
    P.date('mvhd, tkhd, mdhd', u32(MAC))

@recipe('mp4')
def mp4_uuid(P, out):
    """uuid boxes at every level."""
    m = Mp4(media('h264.mp4'))
    places = ['moov', 'moov/trak[0]', 'moov/trak[0]/edts', 'moov/trak[0]/mdia', 'moov/trak[0]/mdia/minf', 'moov/trak[0]/mdia/minf/stbl', 'moov/trak[1]/mdia/minf/dinf', 'moov/udta', 'moov/trak[0]/udta']
    for i, p in enumerate(places): m.add(p, uuid(SOME_UUID % i, P(p + '/uuid')))
    m.add('', uuid(SOME_UUID % 99, P('top-level uuid before mdat')), index=1); m.add('', uuid(SOME_UUID % 98, P('top-level uuid at the end')))
    m.add('', uuid('4b495448-504c-414e-5430-303030303030', b''))
    P.note('the id of an empty top-level uuid box', 'raw bytes', b'KITHPLANT0', text='KITHPLANT0')
    m.save(out)

@recipe('mp4', 'moov in front; free, skip, wide and unknown boxes with text at every level')
def mp4_free(P, out):
    ff('-i', media('h264.mp4'), '-c', 'copy', '-movflags', '+faststart', out)
    m = Mp4(out)
    for i, p in enumerate(['moov', 'moov/trak[0]', 'moov/trak[1]/mdia', 'moov/trak[0]/mdia/minf', 'moov/trak[0]/mdia/minf/stbl', 'moov/udta', 'moov/trak[0]/mdia/minf/stbl/stsd/avc1']):
        k = ('free', 'skip', 'wide', 'KITH')[i % 4]; m.add(p, box(k, P(f'{p}/{k}')))
    m.add('moov', box('free', P('first box in moov')), index=0)
    m.add('', box('skip', P('top-level skip')), box('wide', P('top-level wide')), index=1)
    m.add('', box('free', P('top-level free at the end')), box('junk', P('top-level unknown box', 'utf-16-le').encode('utf-16-le')))
    m.save(out)

def trailer(name, make):
    def fn(P, out): w(out, r(media('h264.mp4')) + make(P))
    fn.__name__ = 'mp4_trailer_' + name; RECIPES.append((fn.__name__, 'mp4', f'bytes after the last box: {name}', fn))
trailer('zip', lambda P: zip_of(P('zip, file name'), P('zip, file content')))
trailer('text', lambda P: b('\n' + P('plain text after the last box') + '\n'))
trailer('short', lambda P: b('KITH' + P('plain text of 17 bytes whose first 4 read as a huge box size')))
def seft(P):
    text, when = b(P('SEFT block value')), b(str(UNIX * 1000)); P.date('SEFT Image_UTC_Data (milliseconds)', when)
    blocks = [struct.pack('<HHI', 0, t, len(n)) + n + v for t, n, v in ((0xa01, b'Image_UTC_Data', when), (0x0b01, b'Kith_Data', text))]
    table = b'SEFH' + struct.pack('<II', 106, 2); back = sum(map(len, blocks))
    for t, d in zip((0xa01, 0xb01), blocks): table += struct.pack('<HHII', 0, t, back, len(d)); back -= len(d)
    return b''.join(blocks) + table + struct.pack('<I', len(table)) + b'SEFT'
trailer('seft', seft)
trailer('seft_in_box', lambda P: box('sefd', seft(P)))
def insta(P):
    rec = b''.join(u8(k) + u8(13) + b(P('Insta360 ' + n)) for k, n in ((0x0a, 'serial'), (0x12, 'model'), (0x1a, 'firmware')))
    return rec + struct.pack('<HI', 0x101, len(rec)) + bytes(32) + struct.pack('<II', len(rec) + 78, 3) + b'8db42d694ccc418790edff439fe026bf'
trailer('insta360', insta)

@recipe('mp4')
def mp4_mdat_gaps(P, out):
    """Bytes in mdat that no sample refers to: before, between, after; a second mdat that nobody refers to."""
    m = Mp4(media('h264.mp4'))
    c = sorted(m.chunks(0) + m.chunks(1)); end = max(s.old + len(s.data) for x in m.boxes for s in x.segs or [])
    for off, where in ((c[0], 'before the first sample'), (c[len(c) // 3], 'between'), (c[len(c) // 2], 'between'), (end, 'after the last sample')):
        m.inject(off, b(P(f'mdat, {where}')) + bytes(7))
    m.inject(c[5], P('mdat, between, UTF-16', 'utf-16-le').encode('utf-16-le'))
    m.inject(c[7], jpeg(P, 'mdat, a whole JPEG between samples'))
    m.add('', box('mdat', P('mdat without samples, in front of the real one')), index=1); m.add('', box('mdat', P('mdat without samples, at the end')))
    m.save(out)

@recipe('mp4')
def mp4_meta_top(P, out):
    """meta at top level (XML as Sony writes it, items in idat and at a file offset, ID32) and in moov (ID32)."""
    m = Mp4(media('h264.mp4'))
    xml = f'<?xml version="1.0"?><NonRealTimeMeta><CreationDate value="2019-07-13T11:22:33Z"/><Device modelName="{P("meta/xml")}"/></NonRealTimeMeta>'
    P.date('meta/xml CreationDate', DATE)
    infe = full('infe', 2, 0, u16(1), u16(0), 'mime', P('meta/iinf item name'), b'\0', 'text/plain\0')
    text = P('meta/idat item content')
    m.add('', full('meta', 0, 0, hdlr('nrtm', 'x'), full('xml ', 0, 0, xml, b'\0'), full('bxml', 0, 0, P('meta/bxml'))), index=1)
    m.add('', full('meta', 0, 0, hdlr('null'), full('pitm', 0, 0, u16(1)), full('iinf', 0, 0, u16(1), infe),
          full('iloc', 1, 0, u16(0x4400), u16(1), u16(1), u16(1), u16(0), u16(1), u32(0), u32(len(text))), box('idat', text)))
    m.add('', full('meta', 0, 0, hdlr('ID32'), full('ID32', 0, 0, u16(ENG), id3(P('top-level meta/ID32', 'utf-16-le')))))
    m.add('moov', full('meta', 0, 0, hdlr('ID32'), full('ID32', 0, 0, u16(ENG), id3(P('moov/meta/ID32', 'utf-16-le')))))
    m.save(out)

@recipe('3gp')
def mp4_3gp_boxes(P, out):
    """3GPP user data: titl, auth, cprt, dscp, perf, gnre, albm, kywd, clsf, rtng, yrrc, loci; UTF-8 and UTF-16."""
    ff('-i', media('h264.mp4'), '-c', 'copy', out); m = Mp4(out)
    m.add('moov/udta', *[full(k, 0, 0, u16(ENG), P('moov/udta/' + k), b'\0') for k in ('titl', 'auth', 'cprt', 'dscp', 'perf', 'gnre', 'albm')],
          full('titl', 0, 0, u16(ENG), ('\ufeff' + P('moov/udta/titl UTF-16', 'utf-16-be') + '\0').encode('utf-16-be')),
          full('kywd', 0, 0, u16(ENG), u8(1), u8(14), P('moov/udta/kywd'), b'\0'), full('clsf', 0, 0, 'KITH', u16(1), u16(ENG), P('moov/udta/clsf'), b'\0'),
          full('rtng', 0, 0, 'KITH', 'KITH', u16(ENG), P('moov/udta/rtng'), b'\0'), full('yrrc', 0, 0, u16(2019)),
          full('loci', 0, 0, u16(ENG), P('moov/udta/loci name'), b'\0', u8(0), P.gps('moov/udta/loci', i32(int(LON * 65536)) + i32(int(LAT * 65536))), i32(400 << 16), 'earth\0', P('moov/udta/loci notes'), b'\0'))
    m.save(out)

@recipe('mp4')
def mp4_vendor_udta(P, out):
    """Microsoft Xtra, Samsung smta, saut, smrd, Nikon-like and Kodak-like boxes, hint SDP text, Nero chpl alone."""
    m = Mp4(media('h264.mp4'))
    u = P('moov/udta/Xtra WM/SharedUserRating', 'utf-16-le').encode('utf-16-le') + b'\0\0'
    def xtra(name, typ, val): d = u32(len(name)) + b(name) + u32(1) + u32(6 + len(val)) + u16(typ) + val; return u32(4 + len(d)) + d
    when = P.date('moov/udta/Xtra WM/EncodingTime', struct.pack('<Q', FILETIME))
    m.add('moov/udta', box('Xtra', xtra('WM/Category', 8, u), xtra('WM/EncodingTime', 21, when)), full('smta', 0, 0, box('mdln', P('moov/udta/smta/mdln'))), box('saut', u32(0), P('moov/udta/saut')),
          box('smrd', P('moov/udta/smrd')), box('SDLN', P('moov/udta/SDLN')), box('NCDT', box('NCHD', 'MakerNote0100'), box('NCDB', P('moov/udta/NCDT/NCDB'))),
          box('hnti', box('sdp ', f's={P("moov/udta/hnti/sdp")}\r\n')), box('hinf', box('cmnt', P('moov/udta/hinf/cmnt'))), box('TAGS', P('moov/udta/TAGS')), box('AllF', P('moov/udta/AllF')),
          full('chpl', 1, 0, u32(0), u8(1), u64(0), u8(13), P('moov/udta/chpl', kind='content')))
    m.add('', box('frea', box('tima', u32(3)), box('ver ', P('frea/ver '))), box('thum', jpeg(P, 'top-level thum')))
    m.add('', box('pnot', P.date('pnot modification date', u32(MAC)), u16(0), 'PICT', u16(1)), box('PICT', P('top-level PICT')), index=1)
    m.save(out)

@recipe('mp4')
def mp4_sei_aac(P, out):
    """In the samples: x264's own SEI (options), own SEI user data, Lavc text in the AAC fill element (made a plant)."""
    part = os.path.join(TMP, 'sei.mp4')
    ff(*SRC, *X264, *AAC, '-bsf:v', 'h264_metadata=sei_user_data=086f3693-b7b3-4f2c-9653-21492feee5b8+' + P('H.264 SEI user_data_unregistered in every IDR sample', in_samples=FILM), part)
    d = r(part); lavc = re.search(rb'Lavc\d[\d.]*', d[d.index(b'mdat'):]).group()
    mark = b(P(f'AAC fill element in the first audio sample, was {lavc.decode()}', in_samples=FILM)).ljust(len(lavc))[:len(lavc)]
    P.note("x264's own SEI with all its options", 'utf-8', b'x264 - core', 'encoder', FILM, 'x264 - core')
    w(out, d.replace(b'\0' + lavc, b'\0' + mark) if b'\0' + lavc in d else d[:d.index(b'mdat')] + d[d.index(b'mdat'):].replace(lavc, mark))

@recipe('mp4')
def mp4_sei_many(P, out):
    """An SEI before the first sample's slices by hand, and an SEI NAL inside avcC's list of PPS."""
    m = Mp4(media('h264.mp4'))
    m.grow_sample(0, sei(P('H.264 SEI, first sample, by hand', in_samples=FILM)))
    a = m.at('moov/trak[0]/mdia/minf/stbl/stsd/avc1/avcC'); n = sei(P('avcC: SEI NAL as a second PPS'))[4:]
    sps = struct.unpack_from('>H', a.body, 6)[0]; at = 8 + sps; pps = struct.unpack_from('>H', a.body, at + 1)[0]
    a.body = a.body[:at] + u8(2) + a.body[at + 1:at + 3 + pps] + u16(len(n)) + n + a.body[at + 3 + pps:]
    m.save(out)

@recipe('mp4')
def mp4_fragmented(P, out):
    """Fragments with mfra: uuid, meta, udta, free in moof and traf, emsg, prft (a date), styp between, mvex text."""
    m = Mp4(media('frag.mp4'))
    moofs = [x for x in m.boxes if x.typ == 'moof']
    for p in ('moof[0]', 'moof[0]/traf[0]', 'moof[1]', 'moov/mvex'): m.add(p, uuid(SOME_UUID % 7, P(p + '/uuid')), box('free', P(p + '/free')))
    m.add('moof[1]/traf[1]', meta('mdta', mdta([('com.kith', 1, P('traf/meta'))])), box('udta', box('name', P('traf/udta/name'))))
    ntp = P.date('prft NTP time', u64((UNIX + 2208988800) << 32))
    emsg = full('emsg', 0, 0, 'urn:' + P('emsg scheme'), b'\0', P('emsg value'), b'\0', u32(1000), u32(0), u32(10), u32(1), P('emsg message'))
    i = m.boxes.index(moofs[1]); m.add('', box('styp', 'msdh', u32(0), 'msdh'), full('prft', 1, 0, u32(1), ntp, u64(0)), emsg, box('free', P('top-level free between fragments')), index=i)
    d = next(x for x in m.boxes if x.typ == 'mdat'); d.segs.append(Seg(None, b(P('mdat of a fragment, after its samples'))))
    m.add('moov/udta', qtext('\xa9xyz', P.gps('moov/udta/\xa9xyz', ISO).decode(), ENG))
    m.save(out)

@recipe('mp4')
def mp4_sidx(P, out):
    """global_sidx: a sidx in front of all fragments; plants shift it."""
    ff('-i', media('h264.mp4'), '-c', 'copy', '-movflags', 'frag_keyframe+empty_moov+default_base_moof+global_sidx', '-metadata', 'title=' + P('moov ilst title'), out)
    m = Mp4(out); i = [x.typ for x in m.boxes].index('sidx')
    m.add('', box('free', P('top-level free between sidx and moof')), index=i + 1); m.add('moof[1]', uuid(SOME_UUID % 3, P('moof[1]/uuid')))
    m.save(out)

@recipe('mp4')
def mp4_cmaf(P, out):
    """CMAF fragments by ffmpeg (sidx each, styp), creation time, title."""
    ff('-i', media('h264.mp4'), '-c', 'copy', '-movflags', 'cmaf+frag_keyframe', '-metadata', 'creation_time=' + DATE, '-metadata', 'title=' + P('moov ilst title'),
       '-metadata:s:v', 'handler_name=' + P('hdlr'), out)
    P.date('mvhd, tkhd, mdhd', u32(MAC))

@recipe('mp4', 'moov in front, co64 and 64-bit mdat header')
def mp4_co64(P, out):
    ff('-i', media('h264.mp4'), '-c', 'copy', '-movflags', '+faststart', out); m = Mp4(out)
    for s in m.all('stbl'):
        for x in [k for k in s.kids if k.typ == 'stco']:
            n = (len(x.body) - 8) // 4; x.typ, x.body = 'co64', x.body[:8] + struct.pack(f'>{n}Q', *struct.unpack_from(f'>{n}I', x.body, 8))
    next(x for x in m.boxes if x.typ == 'mdat').big = True
    m.add('moov/udta', box('name', P('moov/udta/name'))); m.add('', box('uuid', bytes(16), P('top-level uuid')), index=1)
    m.inject(m.chunks(0)[3], b(P('mdat, between samples')))
    x = m.add('', box('free', P('free box with a 64-bit header')))[0]; x.big = True
    m.save(out)

@recipe('mp4')
def mp4_edits_ctts(P, out):
    """Edit list with an empty edit and a trim, negative ctts (version 1); mdat of size 0 up to the end of the file."""
    ff('-i', media('h264.mp4'), '-c', 'copy', '-movflags', '+faststart+negative_cts_offsets', '-output_ts_offset', '0.5', out); m = Mp4(out)
    m.add('moov/trak[0]/edts', box('free', P('edts/free'))); m.add('moov', uuid(SOME_UUID % 5, P('moov/uuid')))
    d = next(x for x in m.boxes if x.typ == 'mdat'); d.segs.append(Seg(None, b(P('mdat, after the last sample'))))
    m.boxes = [x for x in m.boxes if x.typ != 'mdat'] + [d]
    m.save(out); f = r(out); at = f.index(b'mdat') - 4; w(out, f[:at] + u32(0) + f[at + 4:])

@recipe('mp4')
def mp4_hevc(P, out):
    """HEVC: SEI in the first sample, SEI array in hvcC, x265's own SEI."""
    ff(*SRC, '-c:v', 'libx265', '-preset', 'ultrafast', '-x265-params', 'log-level=none:pools=none:frame-threads=1', '-tag:v', 'hvc1', '-crf', '36', *AAC, *EXACT, out)
    P.note("x265's own SEI, an array in hvcC", 'utf-8', b'x265 (build', 'encoder', False, 'x265 (build')
    m = Mp4(out); m.grow_sample(0, sei(P('HEVC SEI in the first sample', in_samples=FILM), True))
    h = m.at('moov/trak[0]/mdia/minf/stbl/stsd/hvc1/hvcC'); n = sei(P('hvcC: an array of SEI NALs'), True)[4:]
    h.body = h.body[:22] + u8(h.body[22] + 1) + h.body[23:] + u8(39) + u16(1) + u16(len(n)) + n
    m.save(out)

@recipe('mp4')
def mp4_av1(P, out):
    """AV1: a metadata OBU (ITU-T T.35) in the first sample, another one in av1C."""
    ff(*SRC, '-c:v', 'libaom-av1', '-cpu-used', '8', '-usage', 'realtime', '-b:v', '60k', '-row-mt', '0', *AAC, *EXACT, out); m = Mp4(out)
    def obu(t): p = b'\x04\xb5' + b(t) + b'\x80'; return b'\x2a' + u8(len(p)) + p
    m.grow_sample(0, obu(P('AV1 metadata OBU at the start of the first sample', in_samples=FILM)))
    m.at('moov/trak[0]/mdia/minf/stbl/stsd/av01/av1C').body += obu(P('av1C: metadata OBU'))
    m.save(out)

@recipe('mp4')
def mp4_flac(P, out):
    """FLAC in MP4: Vorbis comment and APPLICATION blocks in dfLa."""
    ff('-i', media('h264.mp4'), '-c:v', 'copy', '-c:a', 'flac', '-ar', '8000', '-strict', '-2', *EXACT, out); m = Mp4(out)
    e = m.at('moov/trak[1]/mdia/minf/stbl/stsd').kids[0]; at = e.body.index(b'dfLa') - 4; n = struct.unpack_from('>I', e.body, at)[0]; d = e.body[at + 8:at + n]
    more = vorbis_comment(P('dfLa Vorbis comment vendor'), 'TITLE=' + P('dfLa Vorbis comment')); app = b'KITH' + b(P('dfLa APPLICATION'))
    e.body = e.body[:at] + box('dfLa', d[:4], u8(d[4] & 127), d[5:], b'\4', u32(len(more))[1:], more, b'\x82', u32(len(app))[1:], app) + e.body[at + n:]
    m.save(out)

@recipe('mp4')
def mp4_rtp_hint(P, out):
    """RTP hint tracks by ffmpeg: SDP text in udta/hnti with the title, hint samples in mdat."""
    ff('-i', media('h264.mp4'), '-c', 'copy', '-movflags', 'rtphint', '-metadata', 'title=' + P('ilst title'), out); m = Mp4(out)
    m.add('moov/udta', box('hnti', box('rtp ', 'sdp ', f's={P("moov/udta/hnti/rtp ")}\r\n')))
    m.add('moov/trak[2]/udta', box('hinf', box('payt', u32(96), u8(13), P('trak/udta/hinf/payt'))))
    m.save(out)

@recipe('mp4')
def mp4_cenc(P, out):
    """Encrypted (cenc) with senc, saiz, saio (file offsets into moov) and pssh. Plays only with the key in decode_args."""
    P.decode_args = ['-decryption_key', '00112233445566778899aabbccddeeff']
    ff('-i', media('h264.mp4'), '-c', 'copy', '-encryption_scheme', 'cenc-aes-ctr', '-encryption_key', P.decode_args[1], '-encryption_kid', '4b495448000000000000000000000001', out); m = Mp4(out)
    m.add('moov', full('pssh', 0, 0, bytes(16), u32(13), P('pssh data')), box('udta', qtext('\xa9nam', P('moov/udta/\xa9nam')))); m.add('', box('free', P('top-level free')))
    m.save(out)

@recipe('mov')
def mov_prores(P, out):
    """ProRes: vendor code in each frame header; PCM sound; encoder name in the sample entry."""
    ff(*SRC[:4], '-frames:v', '30', '-s', '96x64', '-c:v', 'prores_ks', '-profile:v', '0', '-qscale:v', '31', '-vendor', 'KiTh', *EXACT, '-metadata', 'title=' + P('title'), out)
    P.four('ProRes frame header, encoder code, in every frame', FILM)

@recipe('mov')
def mov_mjpeg(P, out):
    """Motion JPEG: COM segment in every frame."""
    ff(*SRC[:4], '-frames:v', '30', '-c:v', 'mjpeg', '-q:v', '20', out); d = r(out); lavc = re.search(rb'\xff\xfe..(Lavc[\d.]+)', d, re.S).group(1)
    w(out, d.replace(lavc, b(P(f'JPEG COM in every frame, was {lavc.decode()}', in_samples=FILM)).ljust(len(lavc))[:len(lavc)]))

@recipe('mov', 'moov compressed (cmov, zlib): every plant is invisible to a byte search')
def mov_cmov(P, out):
    m = Mp4(media('h264.mov')); m.add('moov/udta', qtext('\xa9nam', P('moov/cmov/cmvd ... udta/\xa9nam', 'zlib')), qtext('\xa9xyz', ISO, ENG)); m.save(out)
    m = Mp4(out); raw = m.boxes[-1].bytes(); assert m.boxes[-1].typ == 'moov'
    m.boxes[-1] = Box('moov', body=box('cmov', box('dcom', 'zlib'), box('cmvd', u32(len(raw)), zlib.compress(raw)), box('free', P('moov/cmov/free'))))
    P.gps('moov/cmov/cmvd ... udta/\xa9xyz', ISO)
    m.save(out)

@recipe('mp4')
def mp4_tables(P, out):
    """Data reference texts, sample groups, sub-sample and aux info boxes, esds with a private descriptor, ftyp brands, tref to nowhere."""
    m = Mp4(media('h264.mp4')); s = 'moov/trak[0]/mdia/minf/stbl'
    m.at('moov/trak[0]/mdia/minf/dinf/dref').kids[0].body += b('file:///home/' + P('dref url text, self-contained flag set') + '\0')
    m.add('moov/trak[1]/mdia/minf/dinf/dref', full('alis', 0, 1, P('dref alis')), full('urn ', 0, 1, P('dref urn name'), b'\0', P('dref urn location'), b'\0'))
    d = m.at('moov/trak[1]/mdia/minf/dinf/dref'); d.head = d.head[:4] + u32(3)
    m.add(s, full('sgpd', 1, 0, 'KITH', u32(13), u32(1), P('sgpd entry')), full('sbgp', 0, 0, 'KITH', u32(1), u32(1), u32(1)), full('saiz', 0, 1, P.four('saiz aux type'), u32(0), u8(13), u32(1)), full('saio', 0, 1, 'KITH', u32(0), u32(1), u32(40)),
          full('cslg', 0, 0, bytes(20)), full('padb', 0, 0, u32(0), P('padb')))
    m.add('moov/trak[0]', box('tref', box('KITH', u32(9))), full('tsel', 0, 0, u32(0), P('tsel')), box('load', bytes(16), P('load')), box('matt', box('kmat', P('matt/kmat'))))
    m.add('moov', full('iods', 0, 0, b'\x10' + u8(7 + 15), bytes(7), b'\xc0' + u8(13), P('iods private descriptor')), box('ctab', bytes(8), P('ctab')), box('clip', P('clip')))
    f = m.at('ftyp'); f.body += P.four('ftyp compatible brand')
    m.save(out)

# ------------------------------------------------------------------ recipes: Matroska
@recipe('mkv')
def mkv_info(P, out):
    """Info: title, apps, date, UIDs, file names, family, chapter translate; title twice."""
    m = Mkv(media('h264.mkv')); i = m.get('Info')
    for k in ('Title', 'MuxingApp', 'WritingApp', 'SegmentFilename', 'PrevFilename', 'NextFilename'): m.put(i, k, P('Info/' + k))
    for k in ('SegmentUID', 'PrevUID', 'NextUID', 'Family'): m.put(i, k, b(P('Info/' + k, 'utf-8')).ljust(16, b'\1'))
    m.put(i, 'Translate', el('TranslateCodec', 0), el('TranslateID', P('Info/ChapterTranslate/ID'))); m.put(i, 'DateUTC', P.date('Info/DateUTC', u64(MKV)))
    m.add(m.seg, el('Info', el('2AD7B1', 1000000), el('Title', P('a second Info/Title')), el('MuxingApp', 'x'), el('WritingApp', 'x')))
    m.save(out)

@recipe('mkv')
def mkv_tags(P, out):
    """Tags by hand: global, per track, per chapter, nested, binary, languages, before and after the clusters."""
    m = Mkv(media('h264.mkv')); uid = m.at(m.track(0), 'TrackUID').body
    deep = el('SimpleTag', el('TagName', P('nested TagName')), el('TagString', P('nested TagString')), el('SimpleTag', el('TagName', 'X'), el('TagString', P('doubly nested TagString'))))
    m.add(m.seg, el('Tags', tag('ARTIST', P('global tag')), tag('DATE_RECORDED', P.date('global tag DATE_RECORDED', '2019-07-13 11:22:33')), tag('RECORDING_LOCATION', P.gps('global tag', ISO)),
        tag(P('TagName'), 'x'), tag('TITLE', P('track tag'), el('TagTrackUID', uid)), tag('TITLE', P('tag for a chapter UID'), el('TagChapterUID', 77)), tag('BIN', b'\0\xff' + b(P('TagBinary')), kind='TagBinary'),
        tag('TITLE', 'x', el('TargetType', P('TargetType'))), el('Tag', el('Targets'), deep), el('Tag', el('Targets'), el('SimpleTag', el('TagName', 'L'), el('TagLang', 'eng'), el('TagLangIETF', 'en-x-' + P('TagLanguageBCP47')), el('TagString', 'x')))))
    m.before_clusters(el('Tags', tag('COMMENT', P('a second Tags, before the clusters'))))
    m.save(out)

@recipe('mkv')
def mkv_by_mkvmerge(P, out):
    """mkvmerge: title, tags, chapters, attachments with names and contents, track names, SRT and ASS tracks, CRC elsewhere, zlib subtitles."""
    x = lambda n, v: f'<Simple><Name>{n}</Name><String>{v}</String></Simple>'
    tags = tmp('t.xml', f'<Tags><Tag><Targets/>{x("COMMENT", P("Tags/global"))}</Tag></Tags>'); tt = tmp('tt.xml', f'<Tags><Tag><Targets/>{x("ENCODER_SETTINGS", P("Tags/track"))}</Tag></Tags>')
    chap = tmp('ch.txt', 'CHAPTER01=00:00:00.000\nCHAPTER01NAME=%s\nCHAPTER02=00:00:01.500\nCHAPTER02NAME=%s\n' % (P('Chapters/name 1', kind='content'), P('Chapters/name 2', kind='content')))
    ass = tmp('k.ass', f'[Script Info]\nTitle: {P("ASS header Title, CodecPrivate")}\nOriginal Script: {P("ASS header Original Script, CodecPrivate")}\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize\nStyle: Default,Arial,20\n\n'
              '[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\nDialogue: 0,0:00:00.00,0:00:01.00,Default,,0,0,0,,KEEPTHIS ass\n')
    att = [tmp(P('AttachedFile/FileName') + '.txt', P('AttachedFile/FileData')), tmp('pic.jpg', jpeg(P, 'AttachedFile'))]
    run('mkvmerge', '-q', '--deterministic', '1', '-o', out, '--title', P('Info/Title'), '--global-tags', tags, '--chapters', chap, '--attachment-description', P('AttachedFile/FileDescription'), '--attach-file', att[0],
        '--attach-file', att[1], '--tags', '0:' + tt, '--track-name', '0:' + P('Tracks/Name'), media('h264.mkv'), '--compression', '0:zlib', tmp('k.srt', srt('KEEPTHIS one', 'KEEPTHIS two')), ass)

@recipe('mkv')
def mkv_tracks(P, out):
    """TrackEntry texts, an IETF language with a private part, BlockAdditionMapping, attachment link, projection private."""
    m = Mkv(media('h264.mkv')); t = m.track(0)
    for k in ('Name', 'CodecName', 'CodecSettings', 'CodecInfoURL', 'CodecDownloadURL'): m.put(t, k, P('TrackEntry/' + k))
    m.put(t, 'LanguageIETF', 'en-x-' + P('TrackEntry/LanguageBCP47')); m.put(t, 'AttachmentLink', 5)
    m.put(t, 'BAMapping', el('BAValue', 4), el('BAName', P('BlockAdditionMapping/Name')), el('BAType', 4), el('BAExtra', P('BlockAdditionMapping/ExtraData')))
    m.put(m.track(1), 'Name', P('second TrackEntry/Name')); m.put(m.track(1), 'TrackUID', P.note('TrackUID of track 2', 'raw 8 bytes', b'KiThPlAn', text='KiThPlAn'))
    m.add(m.seg, el('Attachments', attach(5, P('FileName'), 'text/plain', P('FileData'), el('FileDesc', P('FileDescription')), el('FileReferral', P('FileReferral')))))
    m.save(out)

@recipe('mkv')
def mkv_chapters(P, out):
    """Chapters by hand: names, string UID, chapter process data, tags for them."""
    m = Mkv(media('h264.mkv'))
    proc = el('ChapProcess', el('ChapCodec', 0), el('ChapPrivate', P('ChapProcessPrivate')), el('ChapCommand', el('ChapTime', 0), el('ChapData', P('ChapProcessData'))))
    atom = lambda uid, at, name: el('Atom', el('ChapterUID', uid), el('ChapterStringUID', P('ChapterStringUID')), el('ChapterStart', at), el('Display', el('ChapString', name), el('ChapLang', 'eng')), proc)
    m.before_clusters(el('Chapters', el('Edition', atom(77, 0, P('ChapString', kind='content')), atom(78, 1500000000, P('ChapString 2', kind='content')))))
    m.add(m.seg, el('Tags', tag('TITLE', P('tag of chapter 77'), el('TagChapterUID', 77))))
    m.save(out)

@recipe('mkv')
def mkv_void_unknown(P, out):
    """Void and unknown elements with text at every level; slack of the EBML header; Void before the clusters."""
    m = Mkv(media('h264.mkv'))
    spots = [(m.top[0], 'EBML header'), (m.seg, 'Segment'), (m.get('Info'), 'Info'), (m.get('Tracks'), 'Tracks'), (m.track(0), 'TrackEntry'), (m.clusters()[0], 'Cluster'), (m.get('Cues'), 'Cues'), (m.get('SeekHead'), 'SeekHead')]
    for where, name in spots: m.add(where, el('Void', P(f'{name}/Void')))
    for where, name in spots[1:]: m.add(where, el('4BEE' if name != 'Segment' else '1A5B4B49', P(f'{name}/unknown element', 'utf-16-le').encode('utf-16-le')))
    m.before_clusters(el('Void', P('Segment/Void before the clusters'), bytes(500)))
    m.save(out)

@recipe('mkv', 'a Void between EBML header and Segment (ffmpeg plays it but complains about the seek head)')
def mkv_void_before_segment(P, out):
    m = Mkv(media('h264.mkv')); m.top.insert(1, El(ID['Void'], b(P('Void between EBML header and Segment')))); m.save(out)

@recipe('mkv', 'right CRC-32 in Info, Tracks, Tags and clusters; cues in front')
def mkv_crc_cues_front(P, out):
    m = Mkv(media('h264.mkv')); m.put(m.get('Info'), 'Title', P('Info/Title under a CRC-32'))
    m.add(m.seg, el('Tags', tag('COMMENT', P('Tags under a CRC-32'))))
    cues = m.get('Cues'); m.seg.kids.remove(cues); m.seg.kids.insert(m.seg.kids.index(m.clusters()[0]), cues)
    for k in ('Info', 'Tracks'): m.get(k).crc = True
    m.seg.kids[-1].crc = True; m.clusters()[0].crc = True
    m.save(out)

@recipe('mkv', 'a wrong CRC-32 whose 4 bytes are text')
def mkv_crc_wrong(P, out):
    m = Mkv(media('h264.mkv')); m.add(m.seg, el('Tags', tag('COMMENT', P('Tags with a wrong CRC-32')))); m.seg.kids[-1].crc = int.from_bytes(P.four('CRC-32 of Tags'), 'little')
    m.save(out)

@recipe('mkv', 'bytes after the Segment: text, then a zip')
def mkv_trailer(P, out):
    m = Mkv(media('h264.mkv')); m.tail = el('Void', P('Void after the Segment')) + b(P('plain text after the Segment')) + zip_of('x.txt', P('zip after the Segment')); m.save(out)

@recipe('mkv', 'two Segments one behind the other; the second has a title and tags')
def mkv_two_segments(P, out):
    m = Mkv(media('h264.mkv')); m.put(m.get('Info'), 'Title', P('second segment: Title')); m.add(m.seg, el('Tags', tag('COMMENT', P('second segment: Tags'))))
    m.save(out); w(out, r(media('h264.mkv')) + r(out))

@recipe('webm')
def webm_live(P, out):
    """Live: Segment and clusters of unknown size, no cues, no seek head; tags between the clusters; Chrome-like."""
    m = Mkv(media('vp9.webm')); m.put(m.get('Info'), 'WritingApp', P('Info/WritingApp')); m.put(m.get('Info'), 'DateUTC', P.date('Info/DateUTC', u64(MKV)))
    m.seg.kids = [k for k in m.seg.kids if k.id not in (ID['SeekHead'], ID['Cues'])]; m.links = []
    m.add(m.seg, el('Tags', tag('TITLE', P('Tags between clusters of unknown size'))), index=m.seg.kids.index(m.clusters()[1]))
    m.seg.unknown = True
    for c in m.clusters(): c.unknown = True; m.add(c, el('Void', P('Void in a cluster of unknown size')))
    m.save(out)

@recipe('webm')
def webm_lacing(P, out):
    """Opus in laced blocks (Xiph, fixed, EBML in turn); title and tag."""
    m = Mkv(media('vp9.webm')); m.put(m.track(1), 'FlagLacing', 1); m.put(m.track(1), 'DefaultDuration', 20000000); relace(m, 0)
    m.put(m.get('Info'), 'Title', P('Info/Title')); m.add(m.seg, el('Tags', tag('COMMENT', P('global tag')))); m.save(out)

@recipe('webm')
def webm_block_additions(P, out):
    """BlockAdditions (ids 4 and 100), CodecState, BlockVirtual, EncryptedBlock, SilentTracks, unknown children of a BlockGroup."""
    m = Mkv(media('vp9.webm')); done = 0
    for c in m.clusters():
        for i, k in enumerate(c.kids):
            if k.id == ID['SimpleBlock'] and k.body[3] & 0x80 and done < 6:
                done += 1
                more = lambda n, t: el('BlockMore', el('BlockAddID', n), el('BlockAdditional', t))
                group = el('BlockGroup', el('Block', k.body[:3] + u8(k.body[3] & 0x7f) + k.body[4:]), el('BlockAdditions', more(4, b'\xb5' + b(P('BlockAdditional, id 4', in_samples=BLOCK))), more(100, P('BlockAdditional, id 100', in_samples=BLOCK))),
                           el('BlockVirtual', P('BlockVirtual')), el('Void', P('BlockGroup/Void')), el('4BEE', P('BlockGroup/unknown')))
                c.kids[i] = eparse(group, 0, len(group))[0]
    m.add(m.clusters()[1], el('EncryptedBlock', b'\x81\0\0\0' + b(P('EncryptedBlock'))), el('Silent', el('Void', P('SilentTracks/Void'))))
    m.save(out)

@recipe('mkv', 'DocTypeExtension, EBMLMaxIDLength and sizes in long forms, 8-byte element sizes everywhere, DocType with slack')
def mkv_ebml_oddities(P, out):
    m = Mkv(media('h264.mkv')); h = m.top[0]
    m.put(h, 'DocTypeExt', el('ExtName', P('EBML/DocTypeExtension/Name')), el('ExtVersion', 1)); m.put(h, 'MaxID', u64(4)); m.put(h, 'MaxSize', u64(8))
    m.put(h, 'DocType', 'matroska\0' + P('EBML/DocType, after a zero byte')); m.put(m.get('Info'), 'Title', P('Info/Title') + '\0' + P('Info/Title, after a zero byte'))
    for x in [y for t in m.top for y in m.walk(t)]: x.slen = 8
    m.save(out)

@recipe('mkv', 'plants in CodecPrivate: Vorbis comment of a Vorbis track, FLAC metadata blocks of a FLAC track, own SEI in H.264 samples')
def mkv_codec_private(P, out):
    ff('-i', media('h264.mp4'), *SRC[4:8], *SRC[4:8], '-map', '0:v', '-map', '1:a', '-map', '2:a', '-c:v', 'copy', '-c:a:0', 'libvorbis', '-c:a:1', 'flac', '-ac', '2', '-b:a:0', '48k', '-flags:a', '+bitexact', '-write_crc32', '0',
       '-bsf:v', 'h264_metadata=sei_user_data=086f3693-b7b3-4f2c-9653-21492feee5b8+' + P('H.264 SEI user data in every IDR block', in_samples=FILM), out)
    m = Mkv(out)
    p = m.at(m.track(1), 'CodecPrivate').body; n1, q = p[1], 2; n2 = 0
    while p[q] == 255: n2 += 255; q += 1
    n2 += p[q]; q += 1
    new = b'\x03vorbis' + vorbis_comment(P('Vorbis comment vendor, CodecPrivate'), 'TITLE=' + P('Vorbis comment, CodecPrivate')) + b'\1'
    m.put(m.track(1), 'CodecPrivate', b'\2' + u8(n1) + u8(len(new)) + p[q:q + n1] + new + p[q + n1 + n2:])
    f = m.at(m.track(2), 'CodecPrivate').body; c = vorbis_comment(P('FLAC vendor, CodecPrivate'), 'TITLE=' + P('FLAC comment, CodecPrivate')); a = b'KITH' + b(P('FLAC APPLICATION block'))
    m.put(m.track(2), 'CodecPrivate', f[:4] + b'\0' + f[5:42] + b'\4' + u32(len(c))[1:] + c + b'\x82' + u32(len(a))[1:] + a)
    m.save(out)

@recipe('mkv')
def mkv_timed_metadata(P, out):
    """A metadata track (type 33) and a telemetry subtitle track with a block in each cluster."""
    m = Mkv(media('h264.mkv')); P.gps('telemetry subtitle', 'GPS (8.5678, 47.1234, 17)', TRACK)
    for no, typ, codec in ((3, 33, 'D_WEBVTT/METADATA'), (4, 17, 'S_TEXT/UTF8')):
        m.add(m.get('Tracks'), el('TrackEntry', el('TrackNumber', no), el('TrackUID', no), el('TrackType', typ), el('CodecID', codec), el('FlagLacing', 0), el('Name', P(f'Name of the {codec} track'))))
        for c in m.clusters(): m.add(c, el('BlockGroup', el('Block', u8(0x80 | no), u16(0), b'\0', '\n\n' if no == 3 else '', P(f'block of the {codec} track', in_samples=TRACK), ' GPS (8.5678, 47.1234, 17)'), el('9B', 500)))
    m.save(out)

@recipe('mkv')
def mkv_zlib(P, out):
    """ContentCompression zlib by mkvmerge on video (SEI, mostly stored) and on a telemetry subtitle track (invisible to a byte search)."""
    part = os.path.join(TMP, 'z.mkv')
    ff('-i', media('h264.mp4'), '-c', 'copy', '-metadata', 'comment=' + P('global tag by ffmpeg'), '-metadata:s:v', 'title=' + P('track name'),
       '-bsf:v', 'h264_metadata=sei_user_data=086f3693-b7b3-4f2c-9653-21492feee5b8+' + P('H.264 SEI in every IDR block, zlib', in_samples=FILM), part)
    subs = tmp('z.srt', srt('GPS (8.5678, 47.1234, 17) ' + 8 * (P('zlib subtitle block', 'zlib', in_samples=TRACK) + ' ')))
    run('mkvmerge', '-q', '--deterministic', '1', '-o', out, '--compression', '0:zlib', '--title', P('Info/Title'), part, '--compression', '0:zlib', subs)

@recipe('mkv')
def mkv_header_strip(P, out):
    """Header stripping on a telemetry subtitle track: the stripped bytes in ContentCompSettings are the plant."""
    m = Mkv(media('h264.mkv')); text = P('ContentCompSettings, the start of every subtitle block', in_samples=TRACK)
    enc = el('6D80', el('6240', el('5031', 0), el('5032', 1), el('5033', 0), el('5034', el('4254', 3), el('4255', text))))
    m.add(m.get('Tracks'), el('TrackEntry', el('TrackNumber', 3), el('TrackUID', 3), el('TrackType', 17), el('CodecID', 'S_TEXT/UTF8'), el('FlagLacing', 0), enc))
    for c in m.clusters(): m.add(c, el('BlockGroup', el('Block', b'\x83\0\0\0', ' and GPS (8.5678, 47.1234, 17)'), el('9B', 500)))
    P.gps('telemetry subtitle', 'GPS (8.5678, 47.1234, 17)', TRACK)
    m.save(out)

@recipe('mp4', 'MPEG-4 Visual: user data behind start codes in the configuration and in pictures')
def mp4_user_data(P, out):
    user_data(P, out)

@recipe('mkv', 'MPEG-4 Visual in Matroska: user data behind start codes in CodecPrivate and in pictures')
def mkv_user_data(P, out):
    part = tmp('u.mp4', b''); user_data(P, part); ff('-i', part, '-c', 'copy', '-write_crc32', '0', out)

def user_data(P, out):
    run('ffmpeg', '-nostdin', '-y', '-v', 'error', *SRC[:4], *SRC[8:], '-c:v', 'mpeg4', '-g', '15', '-bsf:v', 'dump_extra=freq=keyframe', '-map_metadata', '-1', out)
    data = open(out, 'rb').read(); name = re.compile(rb'(?<=\x00\x00\x01\xb2)Lavc[0-9.]{9}')
    assert len(name.findall(data)) >= 2
    data = name.sub(lambda m: b(P('user data of MPEG-4 Visual', in_samples=FILM)), data)
    w(out, data)

def main():
    out = sys.argv[1]; only = sys.argv[2:]; os.makedirs(out, exist_ok=True); listing = []
    for i, (name, ext, note, fn) in enumerate(RECIPES):
        if only and name not in only: continue
        P = Plants(i + 1); path = os.path.join(out, f'{i + 1:02}_{name}.{ext}')
        fn(P, path)
        listing.append(dict(name=os.path.basename(path), container='Matroska/WebM' if ext in ('mkv', 'webm') else 'MP4/MOV', about=note, decode_args=P.decode_args, plants=P.all))
    json.dump(listing, open(os.path.join(out, 'plants.json'), 'w'), indent=1)
    shutil.rmtree(TMP)

if __name__ == '__main__': main()
