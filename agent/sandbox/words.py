"""What the built-in rules know of Spanish and English: verbs by what they ask for, nouns by what they name."""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache

COMMAND, MENTION = "command", "mention"
"""Whether a form of a verb can ask for something ("borra", "borrar") or only speaks of it ("borré", "borrado")."""


@cache
def _fold_character(character: str) -> str:
    base = unicodedata.normalize("NFKD", character)[0].lower()
    if base in "‘’´`ʼ":
        return "'"
    return '"' if base in "“”«»„" else base[0]


def fold(text: str) -> str:
    """Lower case without accents, of the same length as `text`, so that positions can be used in both."""
    return "".join(map(_fold_character, text))


# Verbs.

_SPANISH_VERBS = {
    "show": "mostrar:muestr ensenar listar ver revisar consultar checar chequear buscar visualizar desplegar:desplieg "
    "enumerar traer:traig describir detallar informar leer obtener:obten contar:cuent platicar pasar abrir "
    "conocer:conozc saber decir:dig mirar echar recordar:recuerd acomodar ordenar verificar explicar explorar "
    "facilitar compartir proporcionar presentar indicar sacar jalar",
    "create": "crear generar armar abrir hacer:hag construir:construy montar preparar iniciar registrar levantar "
    "configurar disenar elaborar producir:produzc arrancar",
    "change": "cambiar modificar actualizar editar renombrar reemplazar sustituir:sustituy corregir:corrij ajustar "
    "asignar rebautizar retitular mover:muev recategorizar reclasificar usar utilizar establecer:establezc definir "
    "alterar convertir:conviert transferir:transfier reasignar arreglar nombrar",
    "remove": "borrar eliminar quitar sacar suprimir retirar remover:remuev desechar tirar descartar excluir:excluy "
    "expulsar desinscribir desvincular destruir:destruy desaparecer:desaparezc sacudir volar:vuel tumbar",
    "clear": "vaciar:vaci limpiar depurar desalojar desocupar purgar resetear",
    "send": "mandar enviar:envi lanzar disparar programar agendar difundir despachar distribuir:distribuy emitir "
    "calendarizar transmitir aventar:avient soltar:suelt publicar",
    "add": "agregar anadir sumar meter incluir:incluy anotar inscribir subir registrar apuntar incorporar integrar "
    "ingresar cargar importar insertar adjuntar enlistar suscribir anexar",
    "put": "poner:pong dejar colocar",
    "off": "bajar tachar",
}
_IRREGULAR = {
    "show": "pon:no da:no dame denme dime diganme digame di deme danos ve:no veo:no veamos ensename ensena traeme trae "
    "traigame traigan cuentame cuenta dejame dejeme regalame pasame paseme echale ver viendo darme decirme "
    "dices tirame muestrame ensename checame checale reviseme",
    "create": "haz hazme hagame hagan hagas haces hagamos creame creeme creemos crees",
    "put": "pon ponla ponlo ponle ponles ponme ponmela ponmelo ponlas ponlos ponga pongan pongale pongas pongamos "
    "pones "
    "dejala dejalo deja deje dejarla dejarlo dejame:no",
    "change": "corrige corrigele corrigela corrigelo corrigeme elige",
    "send": "salga salgan salir",
}
_ENGLISH_VERBS = {
    "show": "show list see view display get fetch give bring tell check look read open pull describe inspect "
    "retrieve find know name:no enumerate review print share return browse sort order walk grab hit pass peek hand "
    "remind explain lookup summarize gimme",
    "create": "create make generate build start open prepare craft launch:no register set:no draft begin spin produce",
    "change": "change update rename edit set switch modify replace assign recategorize alter adjust move swap convert "
    "retitle reassign correct fix transfer use tweak reclassify relabel call",
    "remove": "delete remove drop erase trash discard toss scrap kill withdraw exclude strike kick nuke destroy "
    "eliminate unsubscribe strip wipe detach bin axe yank ditch",
    "clear": "empty clear purge flush clean wipe reset",
    "send": "send launch push blast schedule fire deliver dispatch release broadcast shoot ship distribute transmit "
    "resend",
    "add": "add include insert enroll enrol upload register append import attach load subscribe invite",
    "put": "put place make have let",
}
_CLITICS = ("me", "te", "le", "les", "nos", "lo", "la", "los", "las", "se")
_DOUBLE = tuple(
    first + second for first in ("me", "te", "se", "nos", "le") for second in ("lo", "la", "los", "las", "le")
)


def _soft(root: str, vowels: str) -> str:
    """The root before e, as Spanish spells it: saca, saque."""
    if vowels != "ar":
        return root
    for end, instead in (("c", "qu"), ("g", "gu"), ("z", "c")):
        if root.endswith(end):
            return root[: -len(end)] + instead
    return root


def _conjugate(infinitive: str, changed: str) -> tuple[set[str], set[str]]:
    """Forms that can command, and the other usual ones."""
    root, kind = infinitive[:-2], infinitive[-2:]
    strong = changed or root
    soft = _soft(strong, kind)
    if kind == "ar":
        imperatives = {strong + "a", soft + "e", soft + "en", _soft(root, kind) + "emos"}
        others = {strong + "as", soft + "es", root + "aria", root + "arias"}
        past = {"o", "aste", "aron", "ado", "ada", "ados", "adas", "aba", "ara", "aran", "aras", "are", "amos"}
        gerund = root + "ando"
    else:
        imperatives = {root + "e", strong + "e", strong + "a", strong + "an", strong + "amos"}
        others = {root + "es", strong + "es", strong + "as", root + kind + "ia", root + kind + "ias"}
        past = {"o", "iste", "ieron", "ido", "ida", "idos", "idas", "ia", "io", "i", kind + "a", kind + "an"}
        gerund = root + ("yendo" if root.endswith("u") else "iendo")
    bases = {*imperatives, infinitive, gerund}
    clitic = {base + tail for base in bases for tail in (*_CLITICS, *_DOUBLE)}
    mentions = {root + end for end in past} | {strong + "o", strong + "an", gerund}
    if infinitive in ("ver", "traer"):
        mentions -= {"via"}
    commands = bases | others | clitic
    return commands - {gerund}, mentions - commands


def _english(base: str) -> tuple[set[str], set[str]]:
    stem = base[:-1] if base.endswith("e") else base
    double = (
        base + base[-1] if re.fullmatch(r"(drop|get|set|put|ship|swap|let|kill|strip|scrap|cut|bin)", base) else base
    )
    y = base[:-1] + "ied" if base.endswith("y") else base
    return {base}, {stem + "ed", stem + "ing", double + "ed", double + "ing", base + "s", base + "es", y} - {base}


@cache
def verbs() -> dict[str, tuple[tuple[str, str], ...]]:
    """Every known form, with the families it may belong to and whether it can command."""
    found: dict[str, dict[str, str]] = {}

    def take(family: str, commands: Iterable[str], mentions: Iterable[str] = ()) -> None:
        for form in mentions:
            found.setdefault(form, {}).setdefault(family, MENTION)
        for form in commands:
            found.setdefault(form, {})[family] = COMMAND

    for family, listed in _SPANISH_VERBS.items():
        for item in listed.split():
            infinitive, _, changed = item.partition(":")
            take(family, *_conjugate(infinitive, changed))
    for family, listed in _ENGLISH_VERBS.items():
        for item in listed.split():
            if not item.endswith(":no"):
                take(family, *_english(item))
    for family, listed in _IRREGULAR.items():
        take(family, [item for item in listed.split() if not item.endswith(":no")])
    take("send", (), ("sent", "envio", "envios", "sends", "sending"))
    for word in NOT_VERBS:
        found.pop(word, None)
    return {form: tuple(families.items()) for form, families in found.items()}


@cache
def english_bases() -> frozenset[str]:
    return frozenset(item for listed in _ENGLISH_VERBS.values() for item in listed.split())


@cache
def indicatives() -> frozenset[str]:
    """ "borra", "borras": what somebody does, in forms that may also be orders."""
    found = set()
    for listed in _SPANISH_VERBS.values():
        for item in listed.split():
            infinitive, _, changed = item.partition(":")
            strong = changed or infinitive[:-2]
            found |= (
                {strong + "a", strong + "as"}
                if infinitive.endswith("ar")
                else {infinitive[:-2] + "e", infinitive[:-2] + "es"}
            )
    return frozenset(found)


NOT_VERBS = set(
    [
        "nombre",
        "generales",
        "nombres",
        "lista",
        "listas",
        "cuenta",
        "cuentas",
        "abierta",
        "hecho",
        "este",
        "esta",
        "para",
        "como",
        "uso",
        "usa:no",
        "nota",
        "tira",
        "mira",
        "son",
        "sin",
        "contada",
        "dia",
        "dias",
        "via",
        "cargo",
        "registro",
        "orden",
        "ordenes",
        "base",
        "sale",
        "caso",
        "quiero",
        "vista",
        "haga:no",
        "hacia",
        "una",
        "uno",
        "mando:no",
        "vuelo",
        "nueva",
        "solo",
        "dicho",
        "subi",
        "ver:no",
        "les",
        "veas",
        "cargado",
        "pase",
        "paso",
        "pasos",
        "pasa",
        "pasado",
        "pasada",
        "pasaste",
        "caja",
        "muevo",
        "tires",
        "monte",
        "ingreso",
        "ingresos",
        "trajo",
        "names",
        "named",
        "uses",
        "used",
        "using",
        "orders",
        "listing",
        "listings",
        "views",
        "setting",
        "settings",
        "needs",
        "makes",
        "set:no",
        "reads",
        "looks",
        "look:no",
        "order:no",
        "given",
        "lets",
        "getting",
        "making",
        "knowing",
        "opening",
        "checking",
        "known",
        "dice",
        "dicen",
        "dicha",
        "dijo",
        "registros",
        "envien:no",
        "sumo",
        "publico",
        "publica",
        "publicas",
        "cargas",
    ]
)

# Nouns and other words.


def word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


CAMPAIGN = word_set("campana campaign campanita camapana campanya camp campagna campaing campain")
CAMPAIGNS = word_set("campanas campaigns campanitas campaings campains")
AUDIENCE = word_set(
    "audiencia audience audiencias audiences contactos contacts clientes clients customers destinatarios recipients "
    "destinatario personas people gente integrantes miembros members suscriptores subscribers publico usuarios "
    "participantes participants inscritos receptores everyone everybody destinatarias folks receivers prospectos leads "
    "clientas clientela roster numeros numbers telefonos phones"
)
PERSON = word_set(
    "contacto contact cliente client customer persona person numero number telefono phone cel celular cell whats "
    "whatsapp recipient member suscriptor subscriber miembro senor senora guy integrante tel movil mobile clienta "
    "usuario user muchacho muchacha chavo chava lady man woman"
)
ALL = word_set(
    "todos todas todo toda all every entire whole completa completo completas completamente everyone everybody "
    "enterita entera entero totalidad toditos toditas absolutamente full completely entirely cada everything"
)
FIELDS = {
    "title": word_set("nombre titulo title name nombrecito encabezado"),
    "category": word_set("categoria category tipo type clasificacion rubro clase"),
    "templateName": word_set("plantilla template plantillas templates formato machote"),
    "owners": word_set("dueno duena duenos duenas owner owners propietario propietaria propietarios responsable "
                   "responsables encargado encargada titular ownership duenio propietarias encargados"),
    "message": word_set("mensaje message texto text copy cuerpo body"),
    "language": word_set("idioma language lenguaje"),
}  # fmt: skip
FIELD_OF = {word: field for field, words in FIELDS.items() for word in words}
FOREIGN = word_set(
    "canal canales channel channels mensaje mensajes message messages agente agent boton button cuenta account reporte "
    "report estadisticas statistics stats metricas metrics correo email mail foto photo imagen image "
    "video documento document archivo file etiqueta tag workspace usuario workspace programacion schedule horario "
    "link liga saludo greeting programado programados scheduled plantilla template envio envios"
)
DETAILS = word_set(
    "basics basicos generales detalle detalles details detail info informacion information datos data ficha "
    "configuracion config settings "
    "resumen summary overview record registro estado status expediente specs pormenores metadata setup card rundown "
    "configurado configurada caracteristicas particulars propiedades properties"
)
CATEGORIES = {
    "marketing": word_set("marketing mercadotecnia promocional promocion promotional promo publicidad publicitaria mkt "
                      "comercial advertising promotion promociones mercadeo"),
    "utility": word_set("utilidad utility utilitaria utilitario transaccional transactional utilities utilidades "
        "servicio"),
    "authentication": word_set("autenticacion authentication auth verificacion autentificacion otp authenticate"),
}  # fmt: skip
CATEGORY_OF = {word: category for category, words in CATEGORIES.items() for word in words}
NEW = word_set("nueva nuevo new otra another")
NUMBERS = {
    word: number
    for number, words in enumerate(
        (
            "cero zero", "uno una un one", "dos two", "tres three", "cuatro four", "cinco five", "seis six",
            "siete seven", "ocho eight", "nueve nine", "diez ten", "once eleven", "doce twelve dozen docena",
            "trece thirteen", "catorce fourteen", "quince fifteen", "dieciseis sixteen", "diecisiete seventeen",
            "dieciocho eighteen", "diecinueve nineteen", "veinte twenty",
        )
    )
    for word in words.split()
} | {"veinticinco": 25, "treinta": 30, "thirty": 30, "cuarenta": 40, "forty": 40, "cincuenta": 50, "fifty": 50,
     "cien": 100, "hundred": 100, "sesenta": 60, "sixty": 60}  # fmt: skip

PEOPLE_QUESTION = re.compile(
    r"\b(a )?quien(es)? (mas )?(esta|estan|hay|son|reciben|recibe|va|van|le|les|recibira|recibiran|se|tenemos|tengo|"
    r"sale|salen|llega|forma|forman|integra|integran|aparece|aparecen|figura|figuran|entra|entran|anda|andan|quedo|"
    r"quedaron|trae|"
    r"conforman|componen|pertenece|pertenecen|vienen|viene|quedan)\b"
    r"|\bwho(m)?( all|'s|s|'re)? (is|are|do|does|will|would|we|am|gets?|receives?|in|on|going|it|belongs?|they|"
    r"have|has|"
    r"this|that|makes?|did|else|s)\b|\bwho's (in|on|going|getting|part|inside|all)\b|\bwho all\b|"
    r"\bwhos (in|on|getting)\b"
    r"|\bcuant[ao]s (contactos|clientes|personas|destinatarios|numeros|gente)\b|\bcuanta gente\b|\bhow many "
    r"(people|contacts|"
    r"clients|customers|recipients|members)\b|\b(le|les) (va a llegar|llega|llegara|llegaria)\b|\bque gente\b"
)
OWNER_QUESTION = re.compile(
    r"\bquien(es)? (es|son|esta a cargo|lleva|creo|la creo|la hizo|hizo|maneja|administra|figura como|aparece como)\b|"
    r"\bwho('s| is|s| are)? (the )?(owns?|owner|owners|responsible|in charge|manages?|created|made|runs?)\b|"
    r"\bde quien es\b|\ba nombre de quien\b|\bunder (whose|what) name\b|\bwhose\b|\bwho does .{1,60} belong\b"
)
ASKING = re.compile(
    r"\b(que|cual|cuales|quien|quienes|cuando|cuanto|cuantos|cuantas|como|donde|what|which|who|when|whose|how|where|is|"
    r"are|does|was|were|has|what's|whats|hay|tenemos|tengo|existen|esta|estan)\b"
)

HYPOTHETICAL = re.compile(
    r"\b(ojala|i wish|como (?:le )?\\w+[aei]r(?:l[aoe]s?)?|how to|teach me|olvide|i forgot|miedo|afraid|scared|que "
    r"(pasa|pasaria|sucede|sucederia|ocurre|ocurriria|implica)|what (if|happens|would|will happen|else happens)|"
    r"suppose|supon|supongamos|imagina|imaginate|recuerdame|recordarme|remind me|avisame|notify me|let me know|"
    r"traduc\w+|translate|repite|repeat (after|the|this)|redacta|escribe (un|una)|write (a|an|me)|la frase|the phrase|"
    r"quien(es)? pueden?|who (can|may|could)|seria mejor|better to|hipotetic\w+|hypothetical\w*|buena idea|good "
    r"idea|bad idea|mala idea|"
    r"conviene|deberia|deberiamos|debo|should i|should we|opinas|crees que|do you think|you think|recommend|"
    r"recomiendas|"
    r"recomendarias|advise|aconsejas|como (se|puedo|podria|hago|le hago|hacer|le|borro|elimino|mando|envio|creo|agrego|"
    r"funciona|le hace|quito|cambio|vacio|programo)|how (do|can|could|would|to|does|should|did)|tal vez|quiza|quizas|"
    r"maybe|perhaps|a lo mejor|pensando|pienso|planeo|planeando|considering|thinking|planning|plan to|i might|we might|"
    r"por que|porque no|why|is it (safe|ok|okay|possible to undo|bad|risky|reversible)|es (seguro|posible deshacer|"
    r"reversible|riesgoso)|se puede deshacer|se pierde|se pierden|no se si|i wonder|wondering|not sure|"
    r"unsure|todavia no|aun no|not yet|wait|espera|esperate|hold off|hold on|almost|casi|puedo|can i|may i|could i|"
    r"me pregunto|te acuerdas|remember when|acabo de|acabas de|i just|did (you|i|we|they|someone|anybody|anyone)|"
    r"have (you|i|we|they)|has (anyone|someone|it)|would (you|it) be (wise|smart|ok|okay|safe)|tiene sentido|"
    r"makes? sense|vale la pena|worth|iba a|ibamos a|"
    r"i was|we were|ire|hubiera|habria|difference|diferencia|significa|mean|means|si yo|fue|fueron|"
    r"(?:^|[.!?¿]\W*)should\b|^\W*(?:\w+[aei]r|\w+ing)\b.*\b(?:seria|would be|es un|es una|is a|is an)\b|"
    r"se (borro|elimino|mando|envio|creo|vacio|lanzo|programo)|gonna have to|someday|algun dia|eventually)\b"
)
CONDITION = re.compile(
    r"\b(si|if|cuando|when|unless|a menos que|en caso|in case|once|hasta que|until|whenever|aunque)\b"
)
POLITE_CONDITION = re.compile(
    r"\bsi (me (haces?|hace|puedes?|pudieras?|ayudas?|podrias?)|puedes?|pudieras?|se puede|eres|es posible|no es "
    r"molestia|"
    r"gustas?|fueras?|fuera posible|no te molesta|es tan|quieres)\b|\bif (you (can|could|would|don't mind|dont mind|"
    r"please|may|have a)|possible|that's ok|it's not|its not)\b|\bcuando (puedas|pueda|tengas|tenga|gustes|guste)\b|"
    r"\bwhen(ever)? you (can|get|have|could)\b|\bsi,|\bpara si\b|\bonce\b(?= (de|del|am|a\.m|"
    r"horas|pm))|¿si\?|\blas once\b"
)
REPORTED = re.compile(
    r"\b(dijo|dice|dijeron|dicen|pidio|pidieron|comento|comentan|segun|said|says|told|asked me|according|wrote|"
    r"escribio|"
    r"pide|piden|(?<!se )(?:quiere|quieren|necesita|necesitan|solicita|solicitan) que|sugiere|sugieren|propone|insiste|"
    r"dil[ea]s? a|diles|pidel[ea]s?|avisales?|recuerdales?|tell (?!me|us)\w+ (?:to|that)|ask (?!me|us)\w+ to|"
    r"exige|suggests?|suggested|insists?|asks|mencionaron|menciono|leido|read that|heard|escuche|lei)\b"
)
NEGATIONS = word_set("no nunca jamas ni tampoco sin don't dont not never without evita evitar avoid doesn't shouldn't "
                 "won't can't cannot nor stop nada didn't isn't wasn't haven't hasn't couldn't wouldn't")  # fmt: skip
POSSIBLE = re.compile(
    r"\b(puedes?|podrias?|podria|pueden|se puede|se pueden|sabes|sabe|eres capaz|es posible|seria posible|can you|"
    r"could "
    r"you|are you able|do you|can u|could u|is it possible|would it be possible|can it|can this|able to|permite|"
    r"permites|soportas|support|hay forma|hay manera|is there a way|tienes|"
    r"can we|could we|will you|would you)\b"
)

GREETING = re.compile(
    r"(hola+|holi+|buen(as|os)? ?(dias|tardes|noches|dia)?|que onda|que tal|hey+|hi+|hello+|hiya|good (morning|"
    r"afternoon|"
    r"evening|day)|greetings|saludos|there|yo|oye|como estas|how are you|que hubo|quiubo|todo bien|sup|what's up|"
    r"buen dia|"
    r"amigo|team|equipo|bot|como andas|como va|how's it going)"
)
THANKS = re.compile(
    r"(muchas|mil|many)? ?(gracias|thanks?|thank you|thx|ty|agradezco|te lo agradezco|grax|cheers)( (so much|a lot|"
    r"very "
    r"much|again|mucho|por todo|de nuevo|you))?|perfecto|perfect|excelente|excellent|great|genial|cool|nice|super|"
    r"bye|adios|hasta luego|chao|goodbye|see you|nos vemos|buen trabajo|good job|well done|listo|that's all|es todo|"
    r"eso es todo|awesome|de nada"
)
YES = re.compile(
    r"(si+|yes+|yep|yeah|yup|ok(ay|ey|is)?|va|vale|dale|sale|claro|adelante|confirmo|confirmado|confirmed|confirm|"
    r"apruebo|aprobado|approved?|sure|de acuerdo|hazlo|do it|go ahead|correcto|correct|right|asi es|simon|orale|andale|"
    r"por supuesto|of course|absolutely|sounds good|y|s|sip|me parece|esta bien|bueno|ya|procede|proceed|k|kk|"
    r"please do|"
    r"that's right|exacto|exactly|please|por favor|porfa|arre|jalo|va que va|sobres|let's go|go|hagale|si senor|"
    r"fine|alright|a darle|si quiero|lo confirmo|i confirm|i approve|lo apruebo)"
)
NO = re.compile(
    r"(no+|nope|nah|nel|n|cancela(r|lo)?|cancel( it| that)?|olvidalo|dejalo( asi)?|never ?mind|forget (it|about "
    r"it)|ya no|"
    r"nada|nothing|stop|mejor no|no (quiero|gracias|thanks|thank you|lo hagas|hagas nada|way|no)|don't|detente|"
    r"para|alto|"
    r"olvida(lo)?( eso)?|abort|deja|ninguna|none( of them)?|not now|ahora no|todavia no|ahorita no|skip it|dejemoslo)"
)
HELP = re.compile(
    r"\b(ayuda|ayudame|ayudas|help|que (puedes|sabes|haces|mas puedes|cosas puedes|se puede) ?(hacer)?|what (can|"
    r"do) (you|i) "
    r"(do|ask|say)|what can (i|you)|who are you|quien eres|que eres|what are you|como (funcionas|te uso|funciona esto)|"
    r"how (do you|does this) work|para que sirves|en que (me )?puedes|what do you do|comandos|commands|opciones|"
    r"instrucciones|instructions|que modelo|which model|what model|capabilities|eres (un|una) (bot|modelo|ia)|"
    r"are you (a|an) (bot|model|ai|llm|human)|que operaciones|como te (uso|hablo|pido))\b"
)

FUNCTION = word_set(
    "a al ante con contra de del desde durante e el ella ellas ellos en entre es esa esas ese eso esos esta estas "
    "este esto estos ha han hasta hay la las le les lo los me mi mis muy nos o para pero por porque que se ser si sin "
    "sobre son su sus tambien te tiene tu tus u un una unas unos y ya yo q xq x pues eh oye favor porfa porfavor plis "
    "xfa xfavor gracias nomas solo solamente ahora ahorita aqui ahi alla mas menos bien nada usted "
    "ustedes single porfis porfi mismo misma "
    "mismos mismas quiero quisiera necesito ocupo requiero requiere deseo gustaria podrias puedes podria puede hola "
    "buenas buenos dias tardes noches onda amigo hey urge ayudas ayuda ayudame tengo actual actuales vieja viejo "
    "viejas "
    "urgente definitivamente definitivo siempre vez sistema manera forma hacer tenemos nuestra nuestras nuestro "
    "nuestros quien quienes cual cuales donde como cuando cuanto cuantos cuantas tras fuera dentro cosa cosas "
    "ultimo ultima "
    "ultimos ultimas primero primera primeros primeras siguiente siguientes reciente recientes debe deben debo "
    "sean estan estaba "
    "eso quizas acaso tal hubo he hemos cliente fecha hora horas lunes martes miercoles jueves viernes sabado "
    "domingo asi entonces luego despues bueno va dale mero cuanto antes inmediato "
    "the an of to in on for from with by at as is are was be been it its it's this that these those my our your their "
    "his her him he she they them we us i you i'd i'm i've please pls plz kindly just now right some any there here "
    "and or but so if then also too would could can will shall should want need like let let's lets up out off into "
    "onto about over through via using hi hello thanks thank current currently already really very complete old "
    "permanently forever altogether good ur im id do does did have has had got go goes going one ones "
    "what which who when how "
    "first last next latest following monday tuesday wednesday thursday friday saturday sunday under between both "
    "where exactly quick quickly again back away down same mine ours gonna wanna"
)

_ES_HINTS = word_set(
    "el la los las de del que y en para por con una un mi es me al su sus lo le se ya no si hola quiero cuales gracias "
    "ver tiene hay esta como a favor porfa sin e o este esa ese mañana hoy campana campanas borra crea manda envia "
    "agrega quita vacia muestra cambia lista nueva plantilla canal audiencia necesito dame cual ponle "
    "elimina vaciar borrar crear enviar mandar agregar quitar eliminar va sale clientes contactos nombre detalle ayuda"
)
_EN_HINTS = word_set(
    "the of to and a in for with my is me its it this that on by from at who what which please thanks hi hello "
    "campaign "
    "campaigns delete create send add remove clear show list yes get audience update all can you i need want "
    "want's tell "
    "about have make channel template change rename there hey who's do now not don't details empty called named help"
)


def language_of(text: str, otherwise: str = "es") -> str:
    """ "es" or "en", by the little words; `otherwise` where they don't tell."""
    plain = fold(text)
    words = re.findall(r"[a-z']+", plain)
    spanish = sum(word in _ES_HINTS for word in words)
    english = sum(word in _EN_HINTS for word in words)
    known = verbs()
    for word in words:
        if word not in _ES_HINTS and word not in _EN_HINTS and word in known:
            is_english = any(word in listed.split() for listed in _ENGLISH_VERBS.values())
            english, spanish = english + is_english, spanish + (not is_english)
    spanish += bool(re.search("[¿¡]", text))
    if spanish == english:
        return otherwise
    return "es" if spanish > english else "en"


@cache
def known_words() -> frozenset[str]:
    groups = (CAMPAIGN, CAMPAIGNS, AUDIENCE, PERSON, ALL, FOREIGN, DETAILS, NEW, FUNCTION, NEGATIONS)
    return frozenset().union(*groups, FIELD_OF, CATEGORY_OF, NUMBERS, _ES_HINTS, _EN_HINTS)


_CORE = ("borr", "elimin", "quit", "agreg", "anad", "envi", "mand", "cre", "cambi", "actualiz", "mostr", "muestr",
         "vaci", "program", "lanz", "ensen", "renombr", "modific", "list")  # fmt: skip


@cache
def _targets() -> frozenset[str]:
    """What a misspelt word may have meant: nouns, and the plain commands of the commonest verbs."""
    nouns = CAMPAIGN | CAMPAIGNS | AUDIENCE | frozenset(FIELD_OF) | frozenset(CATEGORY_OF)
    plain = {
        form
        for form, families in verbs().items()
        if form.startswith(_CORE)
        and not form.endswith(("n", "s", "o"))
        and any(mood == COMMAND for _, mood in families)
    }
    english = {"delete", "remove", "create", "update", "change", "schedule", "launch", "clear", "rename", "empty"}
    return frozenset(nouns | plain | english)


LONGEST_WORD = 40


def spelled(word: str) -> str:
    """`word`, or the one known word that is a slip of the finger away."""
    # The slips of a word grow with the square of its length, and no known word is near this long.
    return word if len(word) > LONGEST_WORD else _spelled(word)


@cache
def _spelled(word: str) -> str:
    if len(word) < 5 or not word.isalpha() or word in known_words() or word in verbs():
        return word
    letters = "abcdefghijklmnopqrstuvwxyz"
    near = {word[:i] + word[i + 1 :] for i in range(len(word))}
    near |= {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}
    near |= {word[:i] + letter + word[i:] for i in range(len(word) + 1) for letter in letters}
    if len(word) >= 6:
        near |= {word[:i] + letter + word[i + 1 :] for i in range(1, len(word)) for letter in letters}
    found = {item for item in near & _targets() if item[0] == word[0]}
    families = {verbs().get(item, ((item, ""),)) for item in found}
    return min(found) if found and len(families) == 1 else word


# What the rules say.

SAID_ES: dict[str, str] = {
    "campaign": "¿Cuál campaña?",
    "candidates": "¿Cuál de estas campañas?",
    "unknown": "No encuentro ninguna campaña que sea «{unknown}»; ¿cuál es?",
    "maybe": "¿Te refieres a esta campaña?",
    "no_campaigns": "No hay campañas en esta cuenta.",
    "title": "¿Cómo se va a llamar la campaña?",
    "category": "¿De qué categoría es: marketing, utilidad o autenticación?",
    "change": "¿Qué le cambio y a qué valor (título, categoría, plantilla o dueños)?",
    "owners": "Al cambiar dueños se reemplaza la lista completa; ¿la dejo solo con {owners}?",
    "template": "¿Qué plantilla uso?",
    "unknown_template": "No hay una plantilla «{template}»; ¿cuál uso?",
    "phone": "¿Qué teléfono (con lada)?",
    "name": "¿Cómo se llama la persona del {phone}?",
    "channel": "¿Desde qué canal?",
    "channels": "¿Desde cuál de estos canales? Un envío sale de uno solo.",
    "unknown_channel": "No conozco el canal «{channel}»; ¿desde cuál?",
    "no_channels": "¿Desde qué canal?\nNo puedo leer la lista; dame su id, por ejemplo wb-123.",
    "params": "La plantilla {template} lleva {count} parámetro(s); ¿qué valores van, en orden?",
    "params_left": "La plantilla {template} no lleva parámetros y me diste {given}; ¿la mando sin ellos o con otra "
        "plantilla?",
    "file": "La plantilla lleva {kind}; ¿cuál es su URL?",
    "page": "¿Cuántos, a partir de cuál y en qué orden (por nombre, creación o actualización)?",
    "media": "¿El archivo es imagen, video o documento?",
    "time": "¿A qué hora, y de qué día?",
    "past": "Esa fecha ya pasó; ¿qué día y a qué hora?",
    "agent": "¿Cuál es el id del agente que responde, por ejemplo agt_123?",
    "doubtful": "No me quedó claro qué quieres hacer, y no hice nada. Dímelo con su verbo y la campaña, por ejemplo:",
    "negated": "De acuerdo: no hago nada.",
    "hypothetical": "No hice nada. Si quieres que lo haga, pídemelo directamente, por ejemplo: {example}.",
    "reported": "No hice nada: no me queda claro si me lo pides tú. Si lo quieres, pídemelo directamente: {example}.",
    "capability": "Sí puedo, si me dices en cuál campaña y con qué datos; no he hecho nada. Por ejemplo: {example}.",
    "later": "No hice nada: solo los envíos se pueden programar. Pídemelo cuando quieras que se haga.",
    "gate": "Borrar, vaciar, quitar y enviar siempre esperan tu decisión en una tarjeta.",
    "cancelled": "De acuerdo, lo dejo así; no hice nada.",
    "unclear": "No entendí qué hacer, y no hice nada. Soy el modelo de reglas incluido (no un modelo de lenguaje) "
        "y entiendo "
    "peticiones como:",
    "too_long": "Tu mensaje es demasiado largo para el modelo de reglas incluido (más de {most} caracteres), y no hice "
        "nada. Pídemelo en menos palabras.",
    "button": "El botón {index} «{button}» de la plantilla {template} lleva un valor; ¿cuál es?",
    "yes": "No tengo nada que confirmar aquí. Las aprobaciones se deciden en la tarjeta, no en el chat.",
    "no": "De acuerdo; no hay nada pendiente aquí. Las aprobaciones se deciden en la tarjeta.",
    "thanks": "Con gusto.",
    "help": "Hola. Soy el modelo de reglas incluido en campaign-agent, no un modelo de lenguaje: entiendo las "
        "peticiones usuales "
    "sobre campañas, en español e inglés. Por ejemplo:",
    "setup": "Para usar un modelo de lenguaje define OPENAI_API_KEY, o bien OPENAI_BASE_URL y CAMPAIGN_AGENT_MODEL "
        "(Ollama, "
    "vLLM, llama.cpp, Azure).",
    "empty_list": "No hay campañas en esta página.",
    "more": "Hay más: pídeme «las siguientes {limit} a partir de la {offset}».",
    "more_people": "Hay más personas; pídeme «{limit} contactos a partir del {offset}».",
    "people": "{count} persona(s) en esta página de la audiencia:",
    "no_people": "La audiencia no tiene personas en esta página.",
    "created": "Listo: se creó «{title}» (id {id}).",
    "updated": "Listo: la campaña quedó actualizada.",
    "deleted": "La campaña se borró.",
    "added": "Listo: {count} persona(s) agregadas a la audiencia.",
    "removed": "Se quitó de la audiencia: {count}.",
    "nobody_removed": "Nadie en la audiencia tenía ese teléfono: se quitaron 0.",
    "cleared": "La audiencia se vació: {count} persona(s) quitadas.",
    "nobody_cleared": "La audiencia ya estaba vacía: se quitaron 0.",
    "sent": "La plataforma aceptó el envío. Aceptado no es entregado: la entrega se ve en Plática.",
    "scheduled": "La plataforma aceptó la programación del envío. Aceptado no es entregado.",
    "done": "Hecho.",
    "denied": "No se aprobó, así que no se hizo.{reason}",
    "reason": " Motivo: {reason}.",
    "expired": "La tarjeta venció sin decisión y no se hizo nada. Pídemelo de nuevo si todavía lo quieres.",
    "superseded": "Quedó sin efecto y no se hizo nada.",
    "drifted": "Algo cambió desde la vista previa y no se hizo nada. Revísalo y pídemelo de nuevo si todavía lo "
        "quieres.",
    "unknown_outcome": "No se sabe si se hizo. Antes de repetirlo, revisa {check} en Plática.",
    "check_send": "si el envío salió",
    "check_other": "cómo quedó la campaña",
    "failed": "No se pudo hacer.",
    "invalid": "Los datos no son válidos y no se hizo nada.",
    "not_run": "No se hizo.",
    "refused": "No se permite aquí, y no se hizo nada.",
    "no_list": "No pude leer la lista de campañas, así que no seguí.",
    "none": "(ninguna)", "connected": "conectado", "disconnected": "desconectado",
    "category_label": "Categoría", "template_label": "Plantilla", "owners_label": "Dueños", "language_label": "Idioma",
    "created_label": "Creada", "updated_label": "Última actualización",
    "platform_label": "Plataforma", "message_label": "Mensaje",
}  # fmt: skip
SAID_EN: dict[str, str] = {
    "campaign": "Which campaign?",
    "candidates": "Which of these campaigns?",
    "unknown": "I can't find a campaign that is “{unknown}”; which one is it?",
    "maybe": "Do you mean this campaign?",
    "no_campaigns": "There are no campaigns in this account.",
    "title": "What should the campaign be called?",
    "category": "Which category is it: marketing, utility or authentication?",
    "change": "What should I change, and to what (title, category, template or owners)?",
    "owners": "Changing owners replaces the whole list; should it be only {owners}?",
    "template": "Which template should I use?",
    "unknown_template": "There is no template “{template}”; which one should I use?",
    "phone": "Which phone number (with its area code)?",
    "name": "What is the name of the person at {phone}?",
    "channel": "From which channel?",
    "channels": "From which one of these channels? A send leaves from a single one.",
    "unknown_channel": "I don't know the channel “{channel}”; from which one?",
    "no_channels": "From which channel?\nI can't read the list; give me its id, such as wb-123.",
    "params": "The template {template} takes {count} parameter(s); what are the values, in order?",
    "params_left": "The template {template} takes no parameters and you gave {given}; send it without them or with "
        "another template?",
    "file": "The template has {kind}; what is its URL?",
    "page": "How many, starting after which, and in what order (by name, creation or update)?",
    "media": "Is the file an image, a video or a document?",
    "time": "At what time, and on which day?",
    "past": "That date has passed; which day and time?",
    "agent": "What is the id of the agent who answers, such as agt_123?",
    "doubtful": "It isn't clear to me what to do, and I did nothing. Say it with its verb and the campaign, such as:",
    "negated": "All right: I did nothing.",
    "hypothetical": "I did nothing. If you want it done, ask me directly, for example: {example}.",
    "reported": "I did nothing: it isn't clear to me that you are asking for it. If you are, ask me directly: "
        "{example}.",
    "capability": "I can, if you tell me for which campaign and with what; nothing was done. For example: {example}.",
    "later": "I did nothing: only sends can be scheduled. Ask me when you want it done.",
    "gate": "Deleting, clearing, removing and sending always wait for your decision on a card.",
    "cancelled": "All right, I'll leave it; nothing was done.",
    "unclear": "I didn't understand what to do, and did nothing. I am the built-in rule-based model (not a "
        "language model) and "
    "understand requests like:",
    "too_long": "Your message is too long for the built-in rule-based model (over {most} characters), and I did "
        "nothing. Ask for it in fewer words.",
    "button": "The button {index} “{button}” of the template {template} takes a value; what is it?",
    "yes": "There is nothing to confirm here. Approvals are decided on the card, not in the chat.",
    "no": "All right; nothing is pending here. Approvals are decided on the card.",
    "thanks": "You're welcome.",
    "help": "Hello. I am campaign-agent's built-in rule-based model, not a language model: I understand the usual "
        "requests about "
    "campaigns, in Spanish and English. For example:",
    "setup": "To use a language model set OPENAI_API_KEY, or OPENAI_BASE_URL and CAMPAIGN_AGENT_MODEL (Ollama, "
        "vLLM, llama.cpp, "
    "Azure).",
    "empty_list": "There are no campaigns on this page.",
    "more": "There are more: ask me for “the next {limit} campaigns, skip the first {offset}”.",
    "more_people": "There are more people; ask me for “{limit} contacts, skip the first {offset}”.",
    "people": "{count} person(s) on this page of the audience:",
    "no_people": "The audience has nobody on this page.",
    "created": "Done: “{title}” was created (id {id}).",
    "updated": "Done: the campaign was updated.",
    "deleted": "The campaign was deleted.",
    "added": "Done: {count} person(s) added to the audience.",
    "removed": "Removed from the audience: {count}.",
    "nobody_removed": "Nobody in the audience had that phone: 0 were removed.",
    "cleared": "The audience was cleared: {count} person(s) removed.",
    "nobody_cleared": "The audience was empty already: 0 were removed.",
    "sent": "The platform accepted the send. Accepted is not delivered: delivery shows in Plática.",
    "scheduled": "The platform accepted the scheduled send. Accepted is not delivered.",
    "done": "Done.",
    "denied": "It was not approved, so it was not done.{reason}",
    "reason": " Reason: {reason}.",
    "expired": "The card expired without a decision and nothing was done. Ask again if you still want it.",
    "superseded": "It was set aside and nothing was done.",
    "drifted": "Something changed since the preview and nothing was done. Check it and ask again if you still want it.",
    "unknown_outcome": "It is not known whether it happened. Before repeating it, check {check} in Plática.",
    "check_send": "whether the send went out",
    "check_other": "how the campaign stands",
    "failed": "It could not be done.",
    "invalid": "The details are not valid and nothing was done.",
    "not_run": "It was not done.",
    "refused": "That is not allowed here, and nothing was done.",
    "no_list": "I could not read the list of campaigns, so I stopped.",
    "none": "(none)", "connected": "connected", "disconnected": "disconnected",
    "category_label": "Category", "template_label": "Template", "owners_label": "Owners", "language_label": "Language",
    "created_label": "Created", "updated_label": "Last update",
    "platform_label": "Platform", "message_label": "Message",
}  # fmt: skip
EXAMPLES = {
    "es": {
        "list": "«muéstrame las campañas»",
        "create": '«crea una campaña de marketing llamada "Posada 2026" con la plantilla saludo_simple»',
        "add": "«agrega a Ana Ruiz 55 0010 0001 a Promo Verano»",
        "send": "«manda la encuesta por Ventas CDMX con la plantilla saludo_simple mañana a las 10»",
        "delete": "«borra la campaña Promo Verano 2026»",
        "clear": "«vacía la audiencia de Promo Verano 2026»",
    },
    "en": {
        "list": "“show me the campaigns”",
        "create": '“create a marketing campaign called "Spring Fling" with template saludo_simple”',
        "add": "“add Ana Ruiz 55 0010 0001 to Promo Verano”",
        "send": "“send the encuesta from Ventas CDMX with template saludo_simple tomorrow at 10 am”",
        "delete": "“delete the campaign Promo Verano 2026”",
        "clear": "“clear the audience of Promo Verano 2026”",
    },
}
